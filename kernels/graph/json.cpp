#include "graph/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "graph/error.h"

namespace pelagic {
namespace {

// Recursive descent over the grammar of RFC 8259; recursion is bounded by JsonLimits::depth.
class Parser {
 public:
  Parser(std::string_view text, const std::string& where, const JsonLimits& limits)
      : text_(text), where_(where), limits_(limits) {}

  Json parse_all() {
    if (text_.size() > limits_.bytes) fail("is larger than " + std::to_string(limits_.bytes) + " bytes");
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("has text after its end");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(ErrorCode::checkpoint, where_ + ": the JSON " + problem + " (byte " + std::to_string(at_) + ")");
  }

  bool done() const { return at_ == text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }

  void skip_space() {
    while (!done() && (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t')) ++at_;
  }

  void expect(char wanted) {
    skip_space();
    if (done()) fail("ends too early");
    if (peek() != wanted) fail(std::string("needs '") + wanted + "' here");
    ++at_;
  }

  // True if `wanted` came next; it is then consumed.
  bool accept(char wanted) {
    skip_space();
    if (done() || peek() != wanted) return false;
    ++at_;
    return true;
  }

  Json parse_value(int depth) {
    if (depth > limits_.depth) fail("is nested deeper than " + std::to_string(limits_.depth));
    if (++values_ > limits_.values) fail("holds more than " + std::to_string(limits_.values) + " values");
    skip_space();
    if (done()) fail("ends too early");
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        return Json{parse_string()};
      case 't':
        return parse_word("true", Json{true});
      case 'f':
        return parse_word("false", Json{false});
      case 'n':
        return parse_word("null", Json{nullptr});
      default:
        return parse_number();
    }
  }

  Json parse_word(std::string_view word, Json value) {
    if (text_.substr(at_, word.size()) != word) fail("has an unknown word");
    at_ += word.size();
    return value;
  }

  Json parse_object(int depth) {
    ++at_;
    Json::Object members;
    if (!accept('}')) {
      do {
        skip_space();
        if (peek() != '"') fail("needs a key in quotes here");
        std::string key = parse_string();
        expect(':');
        members.push_back({std::move(key), parse_value(depth + 1)});
      } while (accept(','));
      expect('}');
    }
    const auto by_key = [](const JsonMember& a, const JsonMember& b) { return a.key < b.key; };
    std::sort(members.begin(), members.end(), by_key);
    const auto twice = std::adjacent_find(members.begin(), members.end(),
                                          [](const JsonMember& a, const JsonMember& b) { return a.key == b.key; });
    if (twice != members.end()) fail("names the key \"" + twice->key + "\" twice in one object");
    return Json{std::move(members)};
  }

  Json parse_array(int depth) {
    ++at_;
    Json::Array elements;
    if (accept(']')) return Json{std::move(elements)};
    do {
      elements.push_back(parse_value(depth + 1));
    } while (accept(','));
    expect(']');
    return Json{std::move(elements)};
  }

  bool accept_digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  Json parse_number() {
    const size_t start = at_;
    if (peek() == '-') ++at_;
    const size_t first_digit = at_;
    if (!accept_digits()) fail("has an unexpected character");
    if (text_[first_digit] == '0' && at_ > first_digit + 1) fail("has a number with a leading zero");
    bool integral = true;
    if (peek() == '.') {
      integral = false;
      ++at_;
      if (!accept_digits()) fail("has a number without digits after its point");
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!accept_digits()) fail("has a number without digits in its exponent");
    }
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    if (integral) {
      int64_t value = 0;
      if (std::from_chars(first, last, value).ec == std::errc()) return Json{value};
    }
    double value = 0;
    const auto parsed = std::from_chars(first, last, value);
    if (parsed.ec != std::errc() || !std::isfinite(value)) fail("has a number that is out of range");
    return Json{value};
  }

  std::string parse_string() {
    ++at_;
    std::string out;
    for (;;) {
      if (done()) fail("ends inside a string");
      const unsigned char c = static_cast<unsigned char>(peek());
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c < 0x20) fail("has a control character inside a string");
      if (c == '\\') {
        parse_escape(out);
      } else if (c < 0x80) {
        out.push_back(text_[at_++]);
      } else {
        copy_utf8_sequence(out);
      }
    }
  }

  void parse_escape(std::string& out) {
    ++at_;
    static constexpr std::string_view kNames = "\"\\/bfnrt";
    static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const size_t simple = done() ? std::string_view::npos : kNames.find(peek());
    if (simple != std::string_view::npos) {
      out.push_back(kMeanings[simple]);
      ++at_;
      return;
    }
    if (peek() != 'u') fail("has an unknown escape in a string");
    ++at_;
    uint32_t code = parse_hex4();
    if (code >= 0xDC00 && code <= 0xDFFF) fail("has half a surrogate pair in a string");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (text_.substr(at_, 2) != "\\u") fail("has half a surrogate pair in a string");
      at_ += 2;
      const uint32_t low = parse_hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("has half a surrogate pair in a string");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
  }

  uint32_t parse_hex4() {
    uint32_t code = 0;
    if (text_.size() - at_ < 4) fail("ends inside a string");
    const char* first = text_.data() + at_;
    const auto parsed = std::from_chars(first, first + 4, code, 16);
    if (parsed.ec != std::errc() || parsed.ptr != first + 4) fail("has a \\u escape without four hex digits");
    at_ += 4;
    return code;
  }

  static void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
      out.push_back(static_cast<char>(code));
      return;
    }
    const int following = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static constexpr uint32_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
    out.push_back(static_cast<char>(kLead[following] | (code >> (6 * following))));
    for (int i = following - 1; i >= 0; --i) out.push_back(static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F)));
  }

  // Copies one multi-byte sequence after checking that it is the shortest form of a code point that is no surrogate.
  void copy_utf8_sequence(std::string& out) {
    const unsigned char lead = static_cast<unsigned char>(peek());
    const int following = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || text_.size() - at_ <= static_cast<size_t>(following)) fail("is not valid UTF-8");
    uint32_t code = lead & (0x3F >> following);
    for (int i = 1; i <= following; ++i) {
      const unsigned char next = static_cast<unsigned char>(text_[at_ + i]);
      if ((next & 0xC0) != 0x80) fail("is not valid UTF-8");
      code = (code << 6) | (next & 0x3F);
    }
    static constexpr uint32_t kSmallest[] = {0, 0x80, 0x800, 0x10000};
    if (code < kSmallest[following] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
      fail("is not valid UTF-8");
    out.append(text_.substr(at_, following + 1));
    at_ += following + 1;
  }

  std::string_view text_;
  const std::string& where_;
  const JsonLimits& limits_;
  size_t at_ = 0;
  size_t values_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits) {
  return Parser(text, where, limits).parse_all();
}

void JsonField::fail(const std::string& problem) const { throw Error(ErrorCode::checkpoint, path_ + " " + problem); }

const Json::Object& JsonField::object() const {
  const auto* members = std::get_if<Json::Object>(&value_->value);
  if (members == nullptr) fail("must be an object");
  return *members;
}

const Json* JsonField::find(std::string_view key) const {
  const Json::Object& members = object();
  const auto found = std::lower_bound(members.begin(), members.end(), key,
                                      [](const JsonMember& member, std::string_view k) { return member.key < k; });
  return found != members.end() && found->key == key ? &found->value : nullptr;
}

bool JsonField::has(std::string_view key) const {
  const Json* member = find(key);
  return member != nullptr && !std::holds_alternative<std::nullptr_t>(member->value);
}

JsonField JsonField::at(std::string_view key) const {
  const Json* member = find(key);
  JsonField field(member, path_ + (root_ ? ": " : ".") + std::string(key));
  if (member == nullptr) field.fail("is missing");
  return field;
}

size_t JsonField::size() const {
  const auto* elements = std::get_if<Json::Array>(&value_->value);
  if (elements == nullptr) fail("must be an array");
  return elements->size();
}

JsonField JsonField::element(size_t index) const {
  if (index >= size()) fail("has no element " + std::to_string(index));
  return JsonField(&std::get<Json::Array>(value_->value)[index], path_ + "[" + std::to_string(index) + "]");
}

bool JsonField::boolean() const {
  const bool* value = std::get_if<bool>(&value_->value);
  if (value == nullptr) fail("must be true or false");
  return *value;
}

int64_t JsonField::integer(int64_t low, int64_t high) const {
  const int64_t* value = std::get_if<int64_t>(&value_->value);
  if (value == nullptr || *value < low || *value > high) {
    fail("must be an integer from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return *value;
}

double JsonField::number(double low, double high) const {
  std::optional<double> value;
  if (const int64_t* i = std::get_if<int64_t>(&value_->value)) value = static_cast<double>(*i);
  if (const double* d = std::get_if<double>(&value_->value)) value = *d;
  if (!value || *value < low || *value > high) {
    const auto text = [](double x) {
      char buffer[32];
      return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, x).ptr);
    };
    fail("must be a number from " + text(low) + " to " + text(high));
  }
  return *value;
}

const std::string& JsonField::string() const {
  const std::string* value = std::get_if<std::string>(&value_->value);
  if (value == nullptr) fail("must be a string");
  return *value;
}

}  // namespace pelagic
