// networks.hpp: two small networks, run in double, whose weights are there to be folded.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/rotation/fold.hpp"

namespace test {

using lowbit::index_t;
using lowbit::matrix_view;
namespace rotation = lowbit::rotation;

/// y = x W^T + b. T is float to fold, double to run.
template <class T>
struct dense {
  index_t rows = 0;
  index_t cols = 0;
  std::vector<T> weight = {};
  std::vector<T> bias = {};

  matrix_view<T> view() { return {weight.data(), rows, cols}; }
  rotation::linear linear() { return {view(), bias}; }
};

/// A norm's weight and bias; none: all 1, all 0.
template <class T>
struct affine {
  std::vector<T> weight = {};
  std::vector<T> bias = {};
};

template <class T>
struct block {
  affine<T> norm1 = {};
  dense<T> q = {}, k = {}, v = {}, o = {};
  affine<T> norm2 = {};
  dense<T> gate = {}, up = {}, down = {};  // no gate: GELU
};

template <class T>
struct network {
  index_t heads = 0;
  index_t kv_heads = 0;
  bool subtracts_mean = false;  ///< LayerNorm, not RMSNorm
  dense<T> tokens = {};         ///< embeddings
  dense<T> positions = {};      ///< the same, or none
  std::vector<block<T>> blocks = {};
  affine<T> norm = {};
  dense<T> head = {};

  /// Every matrix with its bias, in a fixed order.
  template <class F>
  void for_each(F&& f) {
    f(tokens);
    f(positions);
    for (auto& b : blocks) {
      for (dense<T>* d : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) f(*d);
    }
    f(head);
  }
};

/// What describes a network's stream to lowbit, and keeps the lists that spans refer to.
struct roles {
  std::vector<matrix_view<float>> tables = {};
  std::vector<rotation::linear> writers = {};
  std::vector<std::vector<rotation::linear>> readers = {};
  std::vector<rotation::norm> norms = {};

  explicit roles(network<float>& n) {
    tables = {n.tokens.view()};
    if (n.positions.rows != 0) tables.push_back(n.positions.view());
    std::vector<affine<float>*> affines;
    for (auto& b : n.blocks) {
      readers.push_back({b.q.linear(), b.k.linear(), b.v.linear()});
      affines.push_back(&b.norm1);
      writers.push_back(b.o.linear());
      readers.push_back({b.up.linear()});
      if (b.gate.rows != 0) readers.back().push_back(b.gate.linear());
      affines.push_back(&b.norm2);
      writers.push_back(b.down.linear());
    }
    readers.push_back({n.head.linear()});
    affines.push_back(&n.norm);
    for (index_t i = 0; i < readers.size(); ++i) {
      norms.push_back({affines[i]->weight, affines[i]->bias, readers[i]});
    }
  }
  [[nodiscard]] rotation::residual_stream stream() const { return {tables, writers, norms}; }
};

// Running
// ------------------------------------------------------------------------------------------

using activations = std::vector<std::vector<double>>;

inline activations outputs_of(const dense<double>& d, const activations& x) {
  activations y(x.size(), std::vector<double>(d.rows));
  for (index_t t = 0; t < x.size(); ++t) {
    for (index_t i = 0; i < d.rows; ++i) {
      double sum = d.bias.empty() ? 0.0 : d.bias[i];
      for (index_t j = 0; j < d.cols; ++j) sum += d.weight[i * d.cols + j] * x[t][j];
      y[t][i] = sum;
    }
  }
  return y;
}

inline activations normalized(const affine<double>& a, bool subtracts_mean, activations x) {
  for (auto& row : x) {
    const auto n = static_cast<double>(row.size());
    double mean = 0.0;
    if (subtracts_mean) {
      for (const double v : row) mean += v / n;
    }
    double square = 0.0;
    for (double& v : row) {
      v -= mean;
      square += v * v / n;
    }
    for (index_t k = 0; k < row.size(); ++k) {
      row[k] /= std::sqrt(square + 1e-5);
      if (!a.weight.empty()) row[k] *= a.weight[k];
      if (!a.bias.empty()) row[k] += a.bias[k];
    }
  }
  return x;
}

/// Causal attention.
inline activations attention(const network<double>& n, const activations& q, const activations& k,
                             const activations& v) {
  const index_t d = q[0].size() / n.heads;
  activations out(q.size(), std::vector<double>(q[0].size()));
  for (index_t h = 0; h < n.heads; ++h) {
    const index_t shared = h / (n.heads / n.kv_heads) * d;
    for (index_t t = 0; t < q.size(); ++t) {
      std::vector<double> weights(t + 1);
      double sum = 0.0;
      for (index_t s = 0; s <= t; ++s) {
        double dot = 0.0;
        for (index_t i = 0; i < d; ++i) dot += q[t][h * d + i] * k[s][shared + i];
        weights[s] = std::exp(dot / std::sqrt(static_cast<double>(d)));
        sum += weights[s];
      }
      for (index_t s = 0; s <= t; ++s) {
        for (index_t i = 0; i < d; ++i) out[t][h * d + i] += weights[s] / sum * v[s][shared + i];
      }
    }
  }
  return out;
}

inline void add_to(activations& x, const activations& y) {
  for (index_t t = 0; t < x.size(); ++t) {
    for (index_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
  }
}

/// Logits of a fixed text. `online`: turns the inputs of every down-projection (R4).
inline std::vector<double> run(const network<double>& n,
                               const lowbit::decorators::hadamard_rotation* online = nullptr) {
  constexpr index_t text[] = {3, 14, 15, 9, 26, 5, 35};
  activations x;
  for (index_t t = 0; t < std::size(text); ++t) {
    const auto row = [](const dense<double>& d, index_t r) {
      const auto first = d.weight.begin() + static_cast<std::ptrdiff_t>(r * d.cols);
      return std::vector<double>(first, first + static_cast<std::ptrdiff_t>(d.cols));
    };
    x.push_back(row(n.tokens, text[t]));
    if (n.positions.rows == 0) continue;
    const auto position = row(n.positions, t);
    for (index_t i = 0; i < position.size(); ++i) x[t][i] += position[i];
  }
  for (const auto& b : n.blocks) {
    const activations h = normalized(b.norm1, n.subtracts_mean, x);
    add_to(x, outputs_of(b.o,
                         attention(n, outputs_of(b.q, h), outputs_of(b.k, h), outputs_of(b.v, h))));
    const activations f = normalized(b.norm2, n.subtracts_mean, x);
    activations up = outputs_of(b.up, f);
    if (b.gate.rows != 0) {
      const activations gate = outputs_of(b.gate, f);
      for (index_t t = 0; t < up.size(); ++t) {
        for (index_t i = 0; i < up[t].size(); ++i) {
          up[t][i] *= gate[t][i] / (1.0 + std::exp(-gate[t][i]));
        }
      }
    } else {
      for (auto& row : up) {
        for (double& v : row) v *= 0.5 * (1.0 + std::erf(v / std::sqrt(2.0)));
      }
    }
    if (online != nullptr) {
      for (auto& row : up) {
        std::vector<double> turned(row.size());
        online->transform_input(std::span<const double>(row), std::span<double>(turned));
        row = turned;
      }
    }
    add_to(x, outputs_of(b.down, up));
  }
  const activations logits = outputs_of(n.head, normalized(n.norm, n.subtracts_mean, x));
  std::vector<double> all;
  for (const auto& row : logits) all.insert(all.end(), row.begin(), row.end());
  return all;
}

// Making
// -------------------------------------------------------------------------------------------

class maker {
 public:
  explicit maker(std::uint64_t seed) : seed_(seed) {}
  std::vector<float> values(index_t count, float mean, float spread) {
    std::vector<float> v(count);
    for (float& x : v) x = std::fma(spread, lowbit::random_normal(seed_, next_++), mean);
    return v;
  }
  dense<float> layer(index_t rows, index_t cols, bool bias) {
    const float spread = 1.0F / std::sqrt(static_cast<float>(cols));
    return {rows, cols, values(rows * cols, 0.0F, spread),
            bias ? values(rows, 0.1F, 0.3F) : std::vector<float>{}};
  }
  dense<float> table(index_t rows, index_t cols) {
    return {rows, cols, values(rows * cols, 0.4F, 1.0F), {}};  // a mean that centring takes away
  }
  affine<float> norm(index_t columns, bool bias) {
    auto weight = values(columns, 1.0F, 0.3F);
    weight[columns / 3] = 6.0F;  // as real ones have
    return {weight, bias ? values(columns, 0.2F, 0.3F) : std::vector<float>{}};
  }

 private:
  std::uint64_t seed_;
  std::uint64_t next_ = 0;
};

constexpr index_t hidden = 32;
constexpr index_t head_size = 8;
constexpr index_t vocabulary = 40;

/// RMSNorm, grouped queries, gated FFN, no biases.
inline network<float> llama_like() {
  maker make(71);
  network<float> n{.heads = 4, .kv_heads = 2, .tokens = make.table(vocabulary, hidden)};
  for (index_t i = 0; i < 2; ++i) {
    block<float> b;
    b.norm1 = make.norm(hidden, false);
    b.q = make.layer(hidden, hidden, false);
    b.k = make.layer(2 * head_size, hidden, false);
    b.v = make.layer(2 * head_size, hidden, false);
    b.o = make.layer(hidden, hidden, false);
    b.norm2 = make.norm(hidden, false);
    b.gate = make.layer(48, hidden, false);
    b.up = make.layer(48, hidden, false);
    b.down = make.layer(hidden, 48, false);
    n.blocks.push_back(b);
  }
  n.norm = make.norm(hidden, false);
  n.head = make.layer(vocabulary, hidden, false);
  return n;
}

/// LayerNorm with biases, positions, GELU; biases everywhere. (Whisper's keys and its head have
/// none: they get zeros, to take what the norms' biases add.)
inline network<float> whisper_like() {
  maker make(72);
  network<float> n{.heads = 4,
                   .kv_heads = 4,
                   .subtracts_mean = true,
                   .tokens = make.table(vocabulary, hidden),
                   .positions = make.table(8, hidden)};
  for (index_t i = 0; i < 2; ++i) {
    block<float> b;
    b.norm1 = make.norm(hidden, true);
    b.q = make.layer(hidden, hidden, true);
    b.k = make.layer(hidden, hidden, false);
    b.k.bias.assign(hidden, 0.0F);
    b.v = make.layer(hidden, hidden, true);
    b.o = make.layer(hidden, hidden, true);
    b.norm2 = make.norm(hidden, true);
    b.up = make.layer(64, hidden, true);
    b.down = make.layer(hidden, 64, true);
    n.blocks.push_back(b);
  }
  n.norm = make.norm(hidden, true);
  n.head = make.layer(vocabulary, hidden, false);
  n.head.bias.assign(vocabulary, 0.0F);
  return n;
}

inline std::vector<double> widened(const std::vector<float>& v) { return {v.begin(), v.end()}; }

/// The same network to run.
inline network<double> runnable(const network<float>& n) {
  const auto wide = [](const dense<float>& d) {
    return dense<double>{d.rows, d.cols, widened(d.weight), widened(d.bias)};
  };
  const auto wide_norm = [](const affine<float>& a) {
    return affine<double>{widened(a.weight), widened(a.bias)};
  };
  network<double> out{n.heads,           n.kv_heads, n.subtracts_mean,  wide(n.tokens),
                      wide(n.positions), {},         wide_norm(n.norm), wide(n.head)};
  for (const auto& b : n.blocks) {
    out.blocks.push_back({wide_norm(b.norm1), wide(b.q), wide(b.k), wide(b.v), wide(b.o),
                          wide_norm(b.norm2), wide(b.gate), wide(b.up), wide(b.down)});
  }
  return out;
}

// Comparing
// ----------------------------------------------------------------------------------------

inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (index_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

/// Every weight of d moved as if it had been rounded in any basis: by a normal number with a
/// variance of u^2 times (its square + the mean square of its row + that of its column), u = 2^-24.
inline void add_noise(dense<double>& d, std::uint64_t seed, std::uint64_t& next) {
  const auto disturb = [&](std::vector<double>& w, index_t row_count, index_t col_count) {
    std::vector<double> by_row(row_count), by_col(col_count);
    for (index_t i = 0; i < w.size(); ++i) {
      by_row[i / col_count] += w[i] * w[i] / static_cast<double>(col_count);
      by_col[i % col_count] += w[i] * w[i] / static_cast<double>(row_count);
    }
    for (index_t i = 0; i < w.size(); ++i) {
      const double scale = std::sqrt(w[i] * w[i] + by_row[i / col_count] + by_col[i % col_count]);
      w[i] += 0x1p-24 * scale * static_cast<double>(lowbit::random_normal(seed, next++));
    }
  };
  disturb(d.weight, d.rows, d.cols);
  disturb(d.bias, 1, d.bias.size());
}

/// How far outputs may move when every weight is rounded once, in whatever basis. A rounding moves
/// a weight by at most u |w|, in its own basis; orthogonal maps keep the norm of what it does to a
/// row or a column, so add_noise moves each row and each column by at least as much (root mean
/// square), in a direction without preference. Outputs move by a linear function of that: their
/// root mean square over draws is the bound. Actual roundings are spread evenly below u |w|, so
/// that they reach a third of it, which is the margin.
inline double rounding_bound(const network<float>& n,
                             const lowbit::decorators::hadamard_rotation* online = nullptr) {
  constexpr std::uint64_t draws = 4;
  const network<double> folded = runnable(n);
  const auto exact = run(folded, online);
  double sum = 0.0;
  for (std::uint64_t draw = 0; draw < draws; ++draw) {
    network<double> moved = folded;
    std::uint64_t next = 0;
    moved.for_each([&](dense<double>& d) { add_noise(d, 100 + draw, next); });
    const double by = distance(run(moved, online), exact);
    sum += by * by / static_cast<double>(draws);
  }
  return std::sqrt(sum);
}

}  // namespace test
