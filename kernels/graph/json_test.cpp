#include "graph/json.h"

#include "graph/test_checkpoint.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

Json parse(const std::string& text) { return parse_json(text, "t.json"); }

}  // namespace

TEST("values of every kind, with escapes and UTF-8") {
  const Json json =
      parse(" {\"a\": [1, -2.5e3, true, false, null], \"s\": \"\\u00e9\\n\\ud83d\\ude00\\/ \xC3\xA9\", \"o\": {}} ");
  const JsonField root(json, "t.json");
  CHECK(root.at("a").element(0).integer(0, 10) == 1);
  CHECK(root.at("a").element(1).number(-1e9, 0) == -2500.0);
  CHECK(root.at("a").element(2).boolean());
  CHECK(!root.at("a").element(3).boolean());
  CHECK(root.at("a").element(4).is_null());
  CHECK(root.at("s").string() == "\xC3\xA9\n\xF0\x9F\x98\x80/ \xC3\xA9");
  CHECK(root.at("o").object().empty());
  CHECK(JsonField(parse("9007199254740993"), "t").integer(0, INT64_MAX) == 9007199254740993);
}

TEST("malformed text is refused") {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "[1",
                           "[1,",
                           "[1,]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "tru",
                           "nul",
                           "01",
                           "-",
                           "1.",
                           "1e",
                           ".5",
                           "+1",
                           "1 2",
                           "\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"\x01\"",
                           "1e999",
                           "NaN",
                           "Infinity",
                           "'a'",
                           "[1]]",
                           "\"\\"}) {
    CHECK_ERROR(parse(text), "t.json: the JSON ");
  }
}

TEST("text that is not UTF-8 is refused") {
  for (const char* text : {"\"\x80\"", "\"\xC0\xAF\"", "\"\xE0\x80\xAF\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"",
                           "\"\xFF\"", "\"\xE2\x82", "\"\xE2\x82\"", "\"\xF0\x9F\x98\""}) {
    CHECK_ERROR(parse(text), "UTF-8");
  }
}

TEST("limits on depth, size and number of values") {
  CHECK_ERROR(parse(std::string(100000, '[')), "deeper");
  CHECK_ERROR(parse_json("[1,2,3]", "t.json", {.values = 3}), "more than 3 values");
  CHECK_ERROR(parse_json("[1,2,3]", "t.json", {.bytes = 6}), "larger than 6 bytes");
}

TEST("a key named twice is refused") { CHECK_ERROR(parse("{\"a\":1,\"b\":2,\"\\u0061\":3}"), "\"a\" twice"); }

TEST("errors of fields name the path") {
  const Json json = parse("{\"a\": {\"b\": [1, \"x\"]}, \"n\": null}");
  const JsonField root(json, "t.json");
  CHECK_ERROR(root.at("a").at("b").element(1).integer(0, 5), "t.json: a.b[1] must be an integer from 0 to 5");
  CHECK_ERROR(root.at("a").at("b").element(0).integer(2, 5), "t.json: a.b[0] must be");
  CHECK_ERROR(root.at("a").at("b").element(2), "has no element 2");
  CHECK_ERROR(root.at("a").at("c"), "t.json: a.c is missing");
  CHECK_ERROR(root.at("a").string(), "t.json: a must be a string");
  CHECK_ERROR(root.at("a").boolean(), "true or false");
  CHECK_ERROR(root.at("a").number(0, 1.5), "a number from 0 to 1.5");
  CHECK_ERROR(root.at("n").at("x"), "t.json: n must be an object");
  CHECK(!root.has("n"));
}

TEST_MAIN
