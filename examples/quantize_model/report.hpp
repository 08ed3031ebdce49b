// report.hpp: the results as a table for people and as JSON for programs.
#pragma once

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "budget.hpp"

namespace quantize_model {

/// The sums over all quantized tensors of a run, and what the run took.
struct run_totals {
  std::uint64_t weights = 0;  ///< quantized
  std::uint64_t bits = 0;     ///< that store them
  std::uint64_t copied_bytes = 0;
  std::size_t quantized = 0;
  std::size_t copied = 0;
  lowbit::error_stats error;
  /// The mean over tensors: a pooled figure would be that of the layer with the largest outputs.
  std::optional<double> calibration_error = {};
  std::optional<double> output_error = {};
  double db_above_bound = 0.0;  ///< mean over weights
  double seconds = 0.0;

  [[nodiscard]] double bits_per_weight() const {
    return weights == 0 ? 0.0 : static_cast<double>(bits) / static_cast<double>(weights);
  }
  /// Bytes of all tensors, without the header.
  [[nodiscard]] std::uint64_t stored_bytes() const { return bits / 8 + copied_bytes; }
};

/// The mean of those that are known, if any is.
template <class Get>
[[nodiscard]] std::optional<double> mean_of_known(const std::vector<tensor_result>& results,
                                                  Get&& get) {
  double sum = 0.0;
  std::size_t count = 0;
  for (const tensor_result& r : results) {
    if (const std::optional<double> value = get(r)) sum += *value, ++count;
  }
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

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
    totals.db_above_bound += r.db_above_bound * static_cast<double>(r.shape.size());
  }
  if (totals.weights > 0) totals.db_above_bound /= static_cast<double>(totals.weights);
  totals.calibration_error =
      mean_of_known(results, [](const tensor_result& r) { return r.calibration_error; });
  totals.output_error =
      mean_of_known(results, [](const tensor_result& r) { return r.output_error; });
  return totals;
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

/// What is reported of a tensor or of a run.
struct reported_errors {
  double bits_per_weight = 0.0;
  const lowbit::error_stats& weights;
  std::optional<double> calibration_error;
  std::optional<double> output_error;
  double db_above_bound = 0.0;
};
[[nodiscard]] inline reported_errors errors_of(const tensor_result& r) {
  const auto weights = static_cast<double>(r.shape.size());
  return {.bits_per_weight = weights > 0.0 ? static_cast<double>(r.bits) / weights : 0.0,
          .weights = r.weights,
          .calibration_error = r.calibration_error,
          .output_error = r.output_error,
          .db_above_bound = r.db_above_bound};
}
[[nodiscard]] inline reported_errors errors_of(const run_totals& t) {
  return {.bits_per_weight = t.bits_per_weight(),
          .weights = t.error,
          .calibration_error = t.calibration_error,
          .output_error = t.output_error,
          .db_above_bound = t.db_above_bound};
}

/// The columns that all tables share: bits per weight and errors.
[[nodiscard]] inline std::vector<std::string> error_columns() {
  return {"bits/weight",    "rel. MSE",         "SQNR dB",   "max error",
          "fitted outputs", "held-out outputs", "dB > bound"};
}
inline void append_errors(std::vector<std::string>& row, const reported_errors& e) {
  row.push_back(show("%.4f", e.bits_per_weight));
  row.push_back(show("%.6f", e.weights.relative_mse()));
  row.push_back(show("%.2f", e.weights.sqnr_db()));
  row.push_back(show("%.5f", static_cast<double>(e.weights.max_abs_error())));
  row.push_back(e.calibration_error ? show("%.6f", *e.calibration_error) : "-");
  row.push_back(e.output_error ? show("%.6f", *e.output_error) : "-");
  row.push_back(std::isnan(e.db_above_bound) ? "-" : show("%.2f", e.db_above_bound));
}

/// What the columns mean, under a table.
inline void print_legend(bool has_outputs) {
  if (has_outputs) {
    std::printf(
        "outputs: relative MSE of the layer's outputs, on the rows that were fitted to and on "
        "others; in a total, the mean over tensors\n");
  }
  std::printf(
      "dB > bound: of this format without calibration, on Gaussian weights: its error above "
      "2^(-2 bits/weight)\n");
}

/// One row per quantized tensor, then the totals.
inline void print_results(const std::vector<tensor_result>& results, const run_totals& totals) {
  std::vector<std::string> header{"tensor", "shape"};
  for (std::string& column : error_columns()) header.push_back(std::move(column));
  header.push_back("seconds");
  const bool any_changed = std::any_of(results.begin(), results.end(), [](const tensor_result& r) {
    return !r.chosen.changes.empty();
  });
  if (any_changed) header.push_back("otherwise");
  table rows(std::move(header));
  for (const tensor_result& r : results) {
    if (!r.quantized) continue;
    std::vector<std::string> row{r.name,
                                 lowbit::detail::message(r.shape.rows, " x ", r.shape.cols)};
    append_errors(row, errors_of(r));
    row.push_back(show("%.2f", r.seconds));
    if (any_changed) row.push_back(r.chosen.text());
    rows.add(std::move(row));
  }
  rows.rule();
  std::vector<std::string> total{lowbit::detail::message("total of ", totals.quantized),
                                 show("%.3f M", static_cast<double>(totals.weights) * 1e-6)};
  append_errors(total, errors_of(totals));
  total.push_back(show("%.2f", totals.seconds));
  if (any_changed) total.emplace_back();
  rows.add(std::move(total));
  rows.print(stdout);
  print_legend(totals.calibration_error || totals.output_error);
}

/// Manifold distortion beside the error that predicts loss: a row per tensor that has it measured.
inline void print_distortion(const std::vector<tensor_result>& results) {
  table rows({"tensor", "MD", "95 %", "md_frac", "isotropic", "e^T H e", "rank of MD",
              "rank of |e|", "flags"});
  for (const tensor_result& r : results) {
    if (!r.distortion) continue;
    const lowbit::outlier::distortion_report& d = *r.distortion;
    std::string flags;
    const auto add_flag = [&](lowbit::index_t count, const char* what) {
      if (count == 0) return;
      flags += lowbit::detail::message(flags.empty() ? "" : ", ", count, what);
    };
    add_flag(d.undefined, " blocks undefined");
    add_flag(d.no_normal_space, " blocks without normal space");
    add_flag(d.sparse_stripes, " stripes of few points");
    rows.add({r.name, show("%.3f", d.md), show("%.3f", d.md_percentile_95), show("%.3f", d.md_frac),
              show("%.3f", d.isotropic_frac), show("%.4g", d.hessian_error),
              show("%.2f", d.md_rank), show("%.2f", d.error_rank), flags});
  }
  std::printf("\nmanifold distortion, a diagnostic: it predicts neither loss nor privacy\n");
  rows.print(stdout);
  std::printf(
      "isotropic: md_frac of an error without direction; e^T H e: tr E H E^T on the rows that "
      "judge; "
      "rank: Spearman's correlation with it, over blocks of weights\n");
}

/// Which candidate each layer gets under a budget.
inline void print_budget(const budget_plan& budget, double bits_per_weight) {
  table rows({"tensor", "bits/weight", "loss", "candidate"});
  const auto size_of = [](std::uint64_t bits, std::uint64_t weights) {
    return show("%.4f",
                weights == 0 ? 0.0 : static_cast<double>(bits) / static_cast<double>(weights));
  };
  for (std::size_t i = 0; i < budget.layers.size(); ++i) {
    const auto& layer = budget.layers[i];
    const auto& option = layer.options[budget.plan.option[i]];
    rows.add({layer.name, size_of(option.bits, layer.weights), show("%.6g", option.loss),
              budget.chosen(i).text()});
  }
  rows.rule();
  rows.add({lowbit::detail::message("total of ", budget.layers.size()),
            size_of(budget.plan.bits, budget.weights), show("%.6g", budget.plan.loss), ""});
  rows.print(stdout);
  std::printf("budget: %g bits per weight; loss: %s; no choice can lose less than %.6g\n\n",
              bits_per_weight,
              budget.has_sensitivities ? "nats of KL, by the sensitivities of the calibration file"
                                       : "mean squared error of the outputs, summed over them",
              budget.plan.least_possible);
  std::fflush(stdout);
}

[[nodiscard]] inline nlohmann::ordered_json budget_as_json(const budget_plan& budget,
                                                           double bits_per_weight) {
  nlohmann::ordered_json json{{"bits_per_weight", bits_per_weight},
                              {"true_bits_per_weight", budget.bits_per_weight()},
                              {"loss", budget.plan.loss},
                              {"loss_in_nats", budget.has_sensitivities},
                              {"least_possible_loss", budget.plan.least_possible}};
  auto& layers = json["layers"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < budget.layers.size(); ++i) {
    nlohmann::ordered_json options = nlohmann::ordered_json::array();
    for (std::size_t c = 0; c < budget.candidates.size(); ++c) {
      const auto& option = budget.layers[i].options[c];
      options.push_back({{"candidate", budget.candidates[c].text()},
                         {"bits", option.bits},
                         {"loss", option.loss}});
    }
    layers.push_back({{"name", budget.layers[i].name},
                      {"chosen", budget.chosen(i).text()},
                      {"options", std::move(options)}});
  }
  return json;
}

/// What the run took, in one line.
inline void print_cost(const run_totals& totals) {
  std::printf(
      "%zu tensors quantized, %zu copied; tensors take %.2f MB; %.2f s, %.1f M weights/s, "
      "peak memory %.0f MiB\n",
      totals.quantized, totals.copied, static_cast<double>(totals.stored_bytes()) * 1e-6,
      totals.seconds,
      totals.seconds > 0.0 ? static_cast<double>(totals.weights) * 1e-6 / totals.seconds : 0.0,
      examples::peak_memory_mib());
}

[[nodiscard]] inline nlohmann::ordered_json errors_as_json(const reported_errors& e) {
  nlohmann::ordered_json json{{"bits_per_weight", e.bits_per_weight},
                              {"relative_mse", e.weights.relative_mse()},
                              {"mse", e.weights.mse()},
                              {"sqnr_db", e.weights.sqnr_db()},
                              {"max_abs_error", e.weights.max_abs_error()},
                              {"gaussian_db_above_bound", e.db_above_bound}};
  if (e.calibration_error) json["relative_calibration_output_mse"] = *e.calibration_error;
  if (e.output_error) json["relative_output_mse"] = *e.output_error;
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
      if (!r.chosen.changes.empty()) row["quantizer"] = r.chosen.how->describe();
      row.update(errors_as_json(errors_of(r)));
      if (r.distortion) {
        row["manifold_distortion"] = {{"md", r.distortion->md},
                                      {"md_percentile_95", r.distortion->md_percentile_95},
                                      {"md_frac", r.distortion->md_frac},
                                      {"isotropic_frac", r.distortion->isotropic_frac},
                                      {"hessian_error", r.distortion->hessian_error},
                                      {"md_rank", r.distortion->md_rank},
                                      {"error_rank", r.distortion->error_rank}};
      }
      row["seconds"] = r.seconds;
    }
    tensors.push_back(std::move(row));
  }
  auto& sums = json["totals"] = errors_as_json(errors_of(totals));
  sums["weights"] = totals.weights;
  sums["bytes"] = totals.stored_bytes();
  sums["seconds"] = totals.seconds;
  sums["peak_memory_mib"] = examples::peak_memory_mib();
  return json;
}

}  // namespace quantize_model
