// formats/sbvr/fit.hpp: how a tensor is fitted, and what its groups share: ratios, or a table.
// Layer L3.
//
//   learn_ratios   ratios of a tensor: scales for given ratios, least squares for the ratios of all
//                  groups together, and so on while the error falls
//   cluster_table  lines of a table: the groups' own coefficients, clustered
//   search_table   lines of a table as the SBVR authors find them: a grid search for every group
//                  that the lines found so far do not serve well enough
#pragma once

#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

#include "lowbit/core/quantizer.hpp"
#include "lowbit/formats/sbvr/coefficient_fit.hpp"
#include "lowbit/formats/sbvr/scale_fit.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace formats {
enum class sbvr_method : std::uint8_t {
  alternating,     ///< nearest levels and least squares in turn, per group; a table is clustered
  learned_ratios,  ///< shared_ratios: with ratios learned from the tensor
  grid_search,     ///< table: the search of the SBVR authors
};
}  // namespace formats

template <>
inline constexpr std::string_view enum_names<formats::sbvr_method>[] = {
    "alternating", "learned_ratios", "grid_search"};

namespace formats {

/// What method to use and how hard to try. A method that is not meant for the params' coefficients
/// is as alternating.
struct sbvr_fit {
  sbvr_method method = sbvr_method::alternating;
  unsigned candidates = 64;  ///< shared_ratios: scales that a group tries at most, 1..256
  unsigned rounds = 20;      ///< of least squares from each start, of learning, of clustering
  // grid_search; the defaults are the authors'
  unsigned search_ratios = 64;    ///< ratios between successive coefficients, an even number
  unsigned search_biases = 40;    ///< numbers added to all coefficients
  unsigned search_scales = 40;    ///< sizes of the range of levels
  unsigned warmup_lines = 10;     ///< lines from which on groups may use the lines of others
  double acceptable_mse = 1e-12;  ///< a mean square error that ends any search

  static void describe(sbvr_fit& f, params_visitor& v) {
    v({"fit", "alternating, or with learned_ratios (shared_ratios), or grid_search (table)"},
      f.method);
    v({"candidates", "for shared_ratios: scales that a group tries at most"}, f.candidates, 1U,
      256U);
    v({"rounds", "of nearest levels and least squares, at most"}, f.rounds, 0U, 1000U);
    v({"search_ratios", "for grid_search: ratios between coefficients that are tried"},
      f.search_ratios, 2U, 1024U);
    v({"search_biases", "for grid_search: numbers added to all coefficients that are tried"},
      f.search_biases, 1U, 1024U);
    v({"search_scales", "for grid_search: ranges of levels that are tried"}, f.search_scales, 1U,
      1024U);
    v({"warmup_lines", "for grid_search: lines from which on groups may use the lines of others"},
      f.warmup_lines, 1U, 65536U);
    v({"acceptable_mse", "for grid_search: a mean square error that ends a search"},
      f.acceptable_mse, 0.0, 1e300);
  }
};

namespace detail {

/// The groups of a matrix, with their importance.
class group_list {
 public:
  struct group {
    std::span<const float> x;
    std::span<const float> h;
  };

  group_list(matrix_view<const float> weights, const calibration& known, index_t group_size)
      : weights_(weights),
        importance_(known.importance),
        group_size_(group_size),
        groups_per_row_(div_up(weights.cols(), group_size)) {}

  [[nodiscard]] index_t size() const noexcept { return weights_.rows() * groups_per_row_; }
  [[nodiscard]] group operator[](index_t i) const noexcept {
    const index_t begin = i % groups_per_row_ * group_size_;
    const index_t count = std::min(group_size_, weights_.cols() - begin);
    return {weights_.row(i / groups_per_row_).subspan(begin, count),
            importance_.empty() ? importance_ : importance_.subspan(begin, count)};
  }

 private:
  matrix_view<const float> weights_;
  std::span<const float> importance_;
  index_t group_size_;
  index_t groups_per_row_;
};

/// sum of h x^2 / sum of h; without importance, or with zeros only, all values count alike.
[[nodiscard]] inline double mean_square(const group_list::group& g) noexcept {
  double energy = 0.0;
  double weight = 0.0;
  for (index_t i = 0; i < g.h.size(); ++i) {
    const auto h = static_cast<double>(g.h[i]);
    const auto x = static_cast<double>(g.x[i]);
    energy = std::fma(h * x, x, energy);  // h x is exact
    weight += h;
  }
  if (weight > 0.0) return energy / weight;
  energy = 0.0;
  for (const float x : g.x) energy += static_cast<double>(x) * static_cast<double>(x);  // exact
  return g.x.empty() ? 0.0 : energy / static_cast<double>(g.x.size());
}

/// `count` groups at equal distances, or all.
[[nodiscard]] inline std::vector<group_values> sample_groups(const group_list& groups,
                                                             index_t count, bool magnitudes) {
  std::vector<group_values> sample;
  const index_t taken = std::min(count, groups.size());
  sample.reserve(taken);
  for (index_t i = 0; i < taken; ++i) {
    const auto g = groups[i * groups.size() / taken];
    sample.emplace_back(g.x, g.h, magnitudes);
  }
  return sample;
}

/// Gives `codebook` ratios that suit these groups: those for normal weights and those of equal
/// steps are improved in turn, each for at most `rounds` rounds, and the best are kept. So the
/// error of a sample of 1024 groups, with real scales, never rises.
inline void learn_ratios(const group_list& groups, unsigned candidates, unsigned rounds,
                         sbvr_codebook& codebook) {
  const sbvr::params& p = codebook.params();
  const scale_grid grid{.type = p.scale_type};
  const bool magnitudes = p.basis == sbvr_basis::sign && !p.has_offset();
  const auto sample = sample_groups(groups, 1024, magnitudes);
  double best = std::numeric_limits<double>::infinity();
  for (coefficient_set ratios : {normal_ratios(p), equal_step_ratios(p)}) {
    double before = std::numeric_limits<double>::infinity();
    for (unsigned round = 0; round <= rounds; ++round) {
      sbvr_codebook trial(p);
      trial.set_ratios({ratios.data(), p.planes});
      const scale_fit fit(trial);
      least_squares problem(p, /*has_offset=*/false);
      double error = 0.0;
      for (const group_values& x : sample) {
        const auto r = fit.fit(x, grid, candidates);
        error += r.error;
        fit.accumulate(x, r.levels, problem);
      }
      if (error < best) {
        best = error;
        codebook = trial;
      }
      if (!(error < before)) break;
      before = error;
      const auto change = problem.solve();
      for (index_t i = 0; i < p.planes; ++i) {
        const double ratio = static_cast<double>(trial.ratios().get(0, i)) + change[i];
        ratios[i] = static_cast<float>(p.basis == sbvr_basis::sign ? std::fabs(ratio) : ratio);
      }
      sort_by_magnitude(std::span(ratios).first(p.planes));
    }
  }
}

/// A line of a table: coefficients, and the offset where there is one.
using table_line = std::array<float, sbvr::max_planes + 1>;

[[nodiscard]] inline table_line line_of(const sbvr_levels& l, const sbvr::params& p) noexcept {
  table_line line{};
  std::copy_n(l.coefficients.begin(), p.planes, line.begin());
  if (p.has_offset()) line[p.planes] = l.offset;
  return line;
}

/// The codebook of `p` with these lines; one of zeros for none.
[[nodiscard]] inline sbvr_codebook make_table(sbvr::params p,
                                              const std::vector<table_line>& lines) {
  p.table_lines = static_cast<std::uint32_t>(std::max<index_t>(lines.size(), 1));
  sbvr_codebook codebook(p);
  for (index_t i = 0; i < lines.size(); ++i) {
    codebook.set_line(i, std::span(lines[i]).first(sbvr_codebook::line_size(p)));
  }
  return codebook;
}

/// How many lines a table may have.
[[nodiscard]] inline index_t most_lines(const sbvr::params& p) noexcept {
  return std::min<index_t>(p.table_lines, index_t{1} << p.index_bits);
}

/// A table of the coefficients of up to 16384 groups, fitted each by itself, then clustered by
/// k-means from evenly spread starts. The first line is zeros if there are groups of zeros.
[[nodiscard]] inline sbvr_codebook cluster_table(const group_list& groups, const sbvr::params& p,
                                                 unsigned rounds) {
  const coefficient_fit fit(p);
  const index_t size = sbvr_codebook::line_size(p);
  std::vector<table_line> points;
  for (const group_values& x : sample_groups(groups, 16384, fit.symmetric())) {
    if (x.energy() > 0.0) points.push_back(line_of(fit.fit(x, rounds).levels, p));
  }
  bool has_zeros = false;
  for (index_t i = 0; i < groups.size() && !has_zeros; ++i) {
    const auto x = groups[i].x;
    has_zeros = std::all_of(x.begin(), x.end(), [](float v) { return v == 0.0F; });
  }
  std::sort(points.begin(), points.end());
  points.erase(std::unique(points.begin(), points.end()), points.end());

  const index_t reserved = has_zeros && most_lines(p) > 1 ? 1 : 0;
  std::vector<table_line> lines(std::min(points.size(), most_lines(p) - reserved));
  for (index_t i = 0; i < lines.size(); ++i) {
    lines[i] = points[(2 * i + 1) * points.size() / (2 * lines.size())];
  }
  for (unsigned round = 0; round < rounds && lines.size() < points.size(); ++round) {
    std::vector<std::array<double, sbvr::max_planes + 1>> sums(lines.size());
    std::vector<index_t> counts(lines.size());
    for (const table_line& point : points) {
      index_t nearest = 0;
      double least = std::numeric_limits<double>::infinity();
      for (index_t l = 0; l < lines.size(); ++l) {
        double distance = 0.0;
        for (index_t i = 0; i < size; ++i) {
          const double d = static_cast<double>(point[i] - lines[l][i]);
          distance += d * d;  // exact: the square of a float
        }
        if (distance < least) {
          least = distance;
          nearest = l;
        }
      }
      ++counts[nearest];
      for (index_t i = 0; i < size; ++i) sums[nearest][i] += static_cast<double>(point[i]);
    }
    const auto before = lines;
    for (index_t l = 0; l < lines.size(); ++l) {
      for (index_t i = 0; i < size && counts[l] > 0; ++i) {
        lines[l][i] = layout::round_to(
            p.scale_type, static_cast<float>(sums[l][i] / static_cast<double>(counts[l])));
      }
    }
    if (lines == before) break;
  }
  if (reserved != 0) lines.insert(lines.begin(), table_line{});
  return make_table(p, lines);
}

}  // namespace detail
}  // namespace formats
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
