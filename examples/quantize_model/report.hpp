// report.hpp: the results as a table for people and as JSON for programs.
#pragma once

#include <sys/resource.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "job.hpp"

namespace quantize_model {

/// The sums over all quantized tensors of a run, and what the run took.
struct run_totals {
  std::uint64_t weights = 0;  ///< quantized
  std::uint64_t bits = 0;     ///< that store them
  std::uint64_t copied_bytes = 0;
  std::size_t quantized = 0;
  std::size_t copied = 0;
  lowbit::error_stats error;
  std::size_t judged = 0;         ///< tensors whose output error is known
  double output_error_sum = 0.0;  ///< of their relative output MSE
  double seconds = 0.0;

  /// The mean over tensors: a pooled figure would be that of the layer with the largest outputs.
  [[nodiscard]] std::optional<double> mean_output_error() const {
    if (judged == 0) return std::nullopt;
    return output_error_sum / static_cast<double>(judged);
  }

  [[nodiscard]] double bits_per_weight() const {
    return weights == 0 ? 0.0 : static_cast<double>(bits) / static_cast<double>(weights);
  }
  /// Bytes of all tensors, without the header.
  [[nodiscard]] std::uint64_t stored_bytes() const { return bits / 8 + copied_bytes; }
};

[[nodiscard]] inline run_totals sum_up(const std::vector<tensor_result>& results, double seconds) {
  run_totals totals;
  totals.seconds = seconds;
  for (const tensor_result& r : results) {
    if (!r.quantized) {
      totals.copied += 1;
      totals.copied_bytes += r.bits / 8;
      continue;
    }
    totals.quantized += 1;
    totals.weights += r.shape.size();
    totals.bits += r.bits;
    totals.error.merge(r.weights);
    if (r.output_error) {
      totals.judged += 1;
      totals.output_error_sum += *r.output_error;
    }
  }
  return totals;
}

/// The most memory that this process had resident so far, in MiB.
[[nodiscard]] inline double peak_memory_mib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;  // Linux counts KiB
}

/// Prints rows under a header: columns of numbers to the right, columns of text to the left.
class table {
 public:
  explicit table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// A line of dashes.
  void rule() { rows_.emplace_back(); }

  void print(std::FILE* to) const {
    std::vector<std::size_t> widths(rows_.front().size(), 0);
    std::vector<bool> numeric(widths.size(), true);
    for (const auto& row : rows_) {
      for (std::size_t c = 0; c < row.size(); ++c) {
        widths[c] = std::max(widths[c], row[c].size());
        const bool number = row[c].empty() || (row[c][0] >= '0' && row[c][0] <= '9') ||
                            row[c][0] == '-' || row[c] == "inf" || row[c] == "nan";
        numeric[c] = numeric[c] && (number || &row == &rows_.front());
      }
    }
    std::size_t total = 0;
    for (const std::size_t width : widths) total += width + 2;
    const std::string dashes(total - 2, '-');
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      if (rows_[r].empty()) {
        std::fprintf(to, "%s\n", dashes.c_str());
        continue;
      }
      for (std::size_t c = 0; c < rows_[r].size(); ++c) {
        const bool last = c + 1 == rows_[r].size();
        const int width = last && !numeric[c] ? 0 : static_cast<int>(widths[c]);
        std::fprintf(to, numeric[c] ? "%*s%s" : "%-*s%s", width, rows_[r][c].c_str(),
                     last ? "\n" : "  ");
      }
      if (r == 0) std::fprintf(to, "%s\n", dashes.c_str());
    }
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// A number as printf's `format` shows it.
[[nodiscard]] inline std::string show(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// The columns that both tables share: bits per weight and errors.
[[nodiscard]] inline std::vector<std::string> error_columns() {
  return {"bits/weight", "rel. MSE", "SQNR dB", "max error", "rel. output MSE"};
}
inline void append_errors(std::vector<std::string>& row, double bits_per_weight,
                          const lowbit::error_stats& weights, std::optional<double> output_error) {
  row.push_back(show("%.4f", bits_per_weight));
  row.push_back(show("%.6f", weights.relative_mse()));
  row.push_back(show("%.2f", weights.sqnr_db()));
  row.push_back(show("%.5f", static_cast<double>(weights.max_abs_error())));
  row.push_back(output_error ? show("%.6f", *output_error) : "-");
}

/// One row per quantized tensor, then the totals.
inline void print_results(const std::vector<tensor_result>& results, const run_totals& totals) {
  std::vector<std::string> header{"tensor", "shape"};
  for (std::string& column : error_columns()) header.push_back(std::move(column));
  table rows(std::move(header));
  for (const tensor_result& r : results) {
    if (!r.quantized) continue;
    const auto weights = static_cast<double>(r.shape.size());
    std::vector<std::string> row{r.name,
                                 lowbit::detail::message(r.shape.rows, " x ", r.shape.cols)};
    append_errors(row, weights > 0.0 ? static_cast<double>(r.bits) / weights : 0.0, r.weights,
                  r.output_error);
    rows.add(std::move(row));
  }
  rows.rule();
  std::vector<std::string> total{lowbit::detail::message("total of ", totals.quantized),
                                 show("%.3f M", static_cast<double>(totals.weights) * 1e-6)};
  append_errors(total, totals.bits_per_weight(), totals.error, totals.mean_output_error());
  rows.add(std::move(total));
  rows.print(stdout);
  if (totals.judged > 0) {
    std::printf("rel. output MSE: on held-out activations; in the total, the mean over tensors\n");
  }
}

/// What the run took, in one line.
inline void print_cost(const run_totals& totals) {
  std::printf(
      "%zu tensors quantized, %zu copied; tensors take %.2f MB; %.2f s, %.1f M weights/s, "
      "peak memory %.0f MiB\n",
      totals.quantized, totals.copied, static_cast<double>(totals.stored_bytes()) * 1e-6,
      totals.seconds,
      totals.seconds > 0.0 ? static_cast<double>(totals.weights) * 1e-6 / totals.seconds : 0.0,
      peak_memory_mib());
}

[[nodiscard]] inline nlohmann::ordered_json errors_as_json(double bits_per_weight,
                                                           const lowbit::error_stats& weights,
                                                           std::optional<double> output_error) {
  nlohmann::ordered_json json{{"bits_per_weight", bits_per_weight},
                              {"relative_mse", weights.relative_mse()},
                              {"mse", weights.mse()},
                              {"sqnr_db", weights.sqnr_db()},
                              {"max_abs_error", weights.max_abs_error()}};
  if (output_error) json["relative_output_mse"] = *output_error;
  return json;
}

/// Everything that the table shows, and the configuration.
[[nodiscard]] inline nlohmann::ordered_json report_as_json(
    const std::string& input, const std::string& configuration,
    const std::vector<tensor_result>& results, const run_totals& totals) {
  nlohmann::ordered_json json{
      {"lowbit_version", LOWBIT_VERSION_STRING}, {"input", input}, {"quantizer", configuration}};
  auto& tensors = json["tensors"] = nlohmann::ordered_json::array();
  for (const tensor_result& r : results) {
    nlohmann::ordered_json row{{"name", r.name},
                               {"shape", {r.shape.rows, r.shape.cols}},
                               {"quantized", r.quantized},
                               {"bytes", r.bits / 8}};
    if (r.quantized) {
      const auto weights = static_cast<double>(r.shape.size());
      row.update(errors_as_json(weights > 0.0 ? static_cast<double>(r.bits) / weights : 0.0,
                                r.weights, r.output_error));
    }
    tensors.push_back(std::move(row));
  }
  auto& sums = json["totals"] =
      errors_as_json(totals.bits_per_weight(), totals.error, totals.mean_output_error());
  sums["weights"] = totals.weights;
  sums["bytes"] = totals.stored_bytes();
  sums["seconds"] = totals.seconds;
  sums["peak_memory_mib"] = peak_memory_mib();
  return json;
}

}  // namespace quantize_model
