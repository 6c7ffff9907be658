// A small strict JSON reader for config.json, safetensors headers and indexes: files that may be damaged or hostile.
// Depth, size and number of values are bounded; text must be UTF-8; an object may not name a key twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace pelagic {

struct JsonMember;

// One parsed value. Objects keep their members sorted by key.
struct Json {
  using Array = std::vector<Json>;
  using Object = std::vector<JsonMember>;
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> value = nullptr;
};

struct JsonMember {
  std::string key;
  Json value;
};

struct JsonLimits {
  size_t bytes = 100u << 20;
  size_t values = 4u << 20;  // bounds memory: a value takes about 40 bytes, its text may take one
  int depth = 32;
};

// Parses the whole text. `where` names its origin (a file) and starts every error message.
// Throws Error(checkpoint), with the byte offset, if the text is not one valid JSON value within the limits.
Json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits = {});

// A value together with the path that leads to it ("config.json: rope_scaling.factor"), so that every error names the
// field. It refers to the Json it was made from. All accessors throw Error(checkpoint).
class JsonField {
 public:
  JsonField(const Json& root, std::string where) : value_(&root), path_(std::move(where)), root_(true) {}

  const std::string& path() const { return path_; }
  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_->value); }

  // Members of an object; `has` is false for null members too, as a null field of a config means "not set".
  bool has(std::string_view key) const;
  JsonField at(std::string_view key) const;
  const Json::Object& object() const;

  // Elements of an array.
  size_t size() const;
  JsonField element(size_t index) const;

  bool boolean() const;
  int64_t integer(int64_t low, int64_t high) const;
  double number(double low, double high) const;
  const std::string& string() const;

  [[noreturn]] void fail(const std::string& problem) const;

 private:
  JsonField(const Json* value, std::string path) : value_(value), path_(std::move(path)) {}
  const Json* find(std::string_view key) const;

  const Json* value_;
  std::string path_;
  bool root_ = false;
};

}  // namespace pelagic
