// tokenizer.hpp: GPT-2's byte-level BPE, as Whisper's English-only models use it.
//
// Text is cut into words by GPT-2's pattern
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// and the bytes of a word are joined pair by pair: always the pair whose joined bytes are the token
// of the lowest id (the first such pair). No list of merges is needed.
//
// \p{L} and \p{N} are exact for U+0000 to U+052F (Latin, Greek, Cyrillic) and for kana; of other
// scripts the blocks of Armenian, Hebrew, Arabic, Devanagari, Thai, Georgian, CJK and Hangul count
// as letters as a whole. A byte that is no UTF-8 counts as a symbol.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace whisper {

using token = std::uint32_t;

/// Ids of tokens that are no text, in a model whose text tokens end with endoftext.
struct special_tokens {
  explicit special_tokens(std::size_t text_tokens)
      : end_of_text(static_cast<token>(text_tokens) - 1),
        start_of_transcript(end_of_text + 1),
        start_of_previous(end_of_text + 104),
        no_speech(end_of_text + 105),
        no_timestamps(end_of_text + 106) {}

  token end_of_text;          ///< 50256 in base.en
  token start_of_transcript;  ///< 50257: this and all later ones are never sampled
  token start_of_previous;    ///< 50360
  token no_speech;            ///< 50361
  token no_timestamps;        ///< 50362
};

/// Immutable: const members may be called from several threads at once.
inline constexpr std::string_view blanks = " \t\n\v\f\r";

/// Every run of white space becomes one blank: the model has never read a line break.
[[nodiscard]] std::string one_line(std::string_view text);

class tokenizer {
 public:
  /// The bytes of every token, by id; the last one is <|endoftext|>, which no text becomes. Of
  /// equal tokens the first counts.
  explicit tokenizer(std::vector<std::string> tokens);
  tokenizer(const tokenizer&) = delete;
  tokenizer& operator=(const tokenizer&) = delete;

  /// Refuses (value) a byte that is no token.
  [[nodiscard]] std::vector<token> encode(std::string_view text) const;
  /// The bytes of a token; none for special ones.
  [[nodiscard]] std::string_view text_of(token id) const noexcept;
  [[nodiscard]] const special_tokens& special() const noexcept { return special_; }

  /// The words that encode() joins bytes in, in order: views that make up the whole text.
  [[nodiscard]] static std::vector<std::string_view> split(std::string_view text);

 private:
  void encode_word(std::string_view word, std::vector<token>& out) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, token> ids_;  // views into tokens_
  special_tokens special_;
};

/// Puts the bytes of tokens together and hands out whole characters: a character may span tokens.
class utf8_stream {
 public:
  /// Takes bytes, returns all that is complete. Bytes that are no UTF-8 become U+FFFD.
  [[nodiscard]] std::string add(std::string_view bytes);
  /// What is left, as U+FFFD.
  [[nodiscard]] std::string finish();

 private:
  std::string rest_;
};

}  // namespace whisper
