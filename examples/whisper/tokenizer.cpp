#include "tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <queue>

#include "lowbit/core/error.hpp"

namespace whisper {

namespace {

enum class kind : std::uint8_t { letter, number, space, other };

struct code_range {
  char32_t first, last;
};

// Unicode 14, categories L* and N*.
constexpr code_range letters[] = {
    {0x41, 0x5A},     {0x61, 0x7A},      {0xAA, 0xAA},     {0xB5, 0xB5},     {0xBA, 0xBA},
    {0xC0, 0xD6},     {0xD8, 0xF6},      {0xF8, 0x2C1},    {0x2C6, 0x2D1},   {0x2E0, 0x2E4},
    {0x2EC, 0x2EC},   {0x2EE, 0x2EE},    {0x370, 0x374},   {0x376, 0x377},   {0x37A, 0x37D},
    {0x37F, 0x37F},   {0x386, 0x386},    {0x388, 0x38A},   {0x38C, 0x38C},   {0x38E, 0x3A1},
    {0x3A3, 0x3F5},   {0x3F7, 0x481},    {0x48A, 0x52F},   {0x531, 0x556},   {0x560, 0x588},
    {0x5D0, 0x5EA},   {0x620, 0x64A},    {0x671, 0x6D3},   {0x904, 0x939},   {0xE01, 0xE30},
    {0x10A0, 0x10FA}, {0x1E00, 0x1F15},  {0x1F18, 0x1FBC}, {0x2C00, 0x2CE4}, {0x3005, 0x3006},
    {0x3031, 0x3035}, {0x3041, 0x3096},  {0x309D, 0x309F}, {0x30A1, 0x30FA}, {0x30FC, 0x30FF},
    {0x3400, 0x4DBF}, {0x4E00, 0x9FFF},  {0xAC00, 0xD7A3}, {0xF900, 0xFAD9}, {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A}, {0x20000, 0x2A6DF}};
constexpr code_range numbers[] = {
    {0x30, 0x39},     {0xB2, 0xB3},     {0xB9, 0xB9},     {0xBC, 0xBE},     {0x660, 0x669},
    {0x6F0, 0x6F9},   {0x966, 0x96F},   {0xE50, 0xE59},   {0x2070, 0x2070}, {0x2074, 0x2079},
    {0x2080, 0x2089}, {0x2150, 0x2182}, {0x2185, 0x2189}, {0x2460, 0x249B}, {0x3007, 0x3007},
    {0x3021, 0x3029}, {0xFF10, 0xFF19}};
constexpr code_range spaces[] = {
    {0x9, 0xD},       {0x1C, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};

template <std::size_t N>
bool is_in(const code_range (&ranges)[N], char32_t c) {
  const auto* const after =
      std::upper_bound(std::begin(ranges), std::end(ranges), c,
                       [](char32_t value, const code_range& range) { return value < range.first; });
  return after != std::begin(ranges) && c <= (after - 1)->last;
}

kind kind_of(char32_t c) {
  if (is_in(letters, c)) return kind::letter;
  if (is_in(numbers, c)) return kind::number;
  return is_in(spaces, c) ? kind::space : kind::other;
}

/// How a byte string starts: a character of `bytes` bytes, or what is none.
struct decoded {
  enum class state : std::uint8_t { complete, cut_off, invalid } is;
  std::size_t bytes;
  char32_t code;
};

/// `text` is not empty. Refuses overlong forms, surrogates and codes above U+10FFFF.
decoded decode_first(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  using enum decoded::state;
  const unsigned first = byte(0);
  if (first < 0x80) return {complete, 1, static_cast<char32_t>(first)};
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return {invalid, 1, 0};
  auto code = static_cast<char32_t>(first & (0x7FU >> length));
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {cut_off, i, 0};
    const unsigned next = byte(i);
    const unsigned least = i == 1 && first == 0xE0   ? 0xA0U
                           : i == 1 && first == 0xF0 ? 0x90U
                                                     : 0x80U;
    const unsigned most = i == 1 && first == 0xED ? 0x9FU : i == 1 && first == 0xF4 ? 0x8FU : 0xBFU;
    if (next < least || next > most) return {invalid, i, 0};
    code = (code << 6U) | (next & 0x3FU);
  }
  return {complete, length, code};
}

struct character {
  kind is;
  std::size_t bytes;
};

character first_character(std::string_view text) {
  const decoded d = decode_first(text);
  if (d.is != decoded::state::complete) return {kind::other, 1};
  return {kind_of(d.code), d.bytes};
}

/// Bytes of the longest start of `text` whose characters are all of one kind.
std::size_t run_length(std::string_view text, kind wanted) {
  std::size_t length = 0;
  while (length < text.size()) {
    const character c = first_character(text.substr(length));
    if (c.is != wanted) break;
    length += c.bytes;
  }
  return length;
}

/// Bytes of the first word of `text`, which is not empty.
std::size_t first_word(std::string_view text) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(ending)) return ending.size();
  }
  const std::size_t blank = text[0] == ' ' ? 1 : 0;
  if (blank < text.size()) {
    const kind of_word = first_character(text.substr(blank)).is;
    if (of_word != kind::space) return blank + run_length(text.substr(blank), of_word);
  }
  // White space: all of it at the end of the text, else all but its last character, which belongs
  // to the word after it if it is a blank.
  const std::size_t length = run_length(text, kind::space);
  if (length == text.size()) return length;
  std::size_t last = 0;
  for (std::size_t at = 0; at < length; at += first_character(text.substr(at)).bytes) last = at;
  return last == 0 ? length : last;
}

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool is_blank = blanks.find(c) != std::string_view::npos;
    if (!is_blank) {
      out += c;
    } else if (!out.ends_with(' ')) {
      out += ' ';
    }
  }
  return out;
}

tokenizer::tokenizer(std::vector<std::string> tokens)
    : tokens_(std::move(tokens)), special_(tokens_.size()) {
  LOWBIT_CHECK(!tokens_.empty(), value, "the vocabulary is empty");
  for (token id = 0; id + 1 < tokens_.size(); ++id) ids_.emplace(tokens_[id], id);
}

std::string_view tokenizer::text_of(token id) const noexcept {
  return id + 1 < tokens_.size() ? std::string_view(tokens_[id]) : std::string_view();
}

std::vector<std::string_view> tokenizer::split(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const std::size_t length = first_word(text);
    words.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return words;
}

std::vector<token> tokenizer::encode(std::string_view text) const {
  std::vector<token> out;
  for (const std::string_view word : split(text)) encode_word(word, out);
  return out;
}

void tokenizer::encode_word(std::string_view word, std::vector<token>& out) const {
  // Pieces are a linked list over the bytes at which they begin; candidates wait in a queue and are
  // stale once one of their pieces has changed. n log n, so a word may be as long as the text.
  const std::size_t n = word.size();
  constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
  std::vector<std::size_t> end(n), before(n);  // of the piece that begins at this byte
  struct pair {
    token rank;
    std::size_t begin, middle, end;
  };
  const auto later = [](const pair& a, const pair& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.begin > b.begin;
  };
  std::priority_queue<pair, std::vector<pair>, decltype(later)> queue(later);
  const auto offer = [&](std::size_t begin) {
    const std::size_t middle = end[begin];
    if (middle == n) return;
    const auto found = ids_.find(word.substr(begin, end[middle] - begin));
    if (found != ids_.end()) queue.push({found->second, begin, middle, end[middle]});
  };
  for (std::size_t i = 0; i < n; ++i) {
    end[i] = i + 1;
    before[i] = i == 0 ? none : i - 1;
  }
  for (std::size_t i = 0; i < n; ++i) offer(i);
  while (!queue.empty()) {
    const pair p = queue.top();
    queue.pop();
    if (end[p.begin] != p.middle || end[p.middle] != p.end) continue;
    end[p.begin] = p.end;
    end[p.middle] = none;  // begins no piece any more
    if (p.end < n) before[p.end] = p.begin;
    offer(p.begin);
    if (before[p.begin] != none) offer(before[p.begin]);
  }
  for (std::size_t i = 0; i < n; i = end[i]) {
    const auto found = ids_.find(word.substr(i, end[i] - i));
    LOWBIT_CHECK(found != ids_.end(), value, "the byte ",
                 static_cast<unsigned>(static_cast<unsigned char>(word[i])),
                 " is no token of the vocabulary");
    out.push_back(found->second);
  }
}

std::string utf8_stream::add(std::string_view bytes) {
  rest_.append(bytes);
  std::string out;
  std::string_view text = rest_;
  while (!text.empty()) {
    const decoded d = decode_first(text);
    if (d.is == decoded::state::cut_off) break;
    out.append(d.is == decoded::state::complete ? text.substr(0, d.bytes) : replacement);
    text.remove_prefix(d.bytes);
  }
  rest_ = std::string(text);
  return out;
}

std::string utf8_stream::finish() {
  const bool cut_off = !rest_.empty();
  rest_.clear();
  return std::string(cut_off ? replacement : std::string_view());
}

}  // namespace whisper
