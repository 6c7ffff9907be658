// The one error type of the engine: a code that callers can act on, and a message that says what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace pelagic {

enum class ErrorCode {
  checkpoint,  // a file, tensor or config field is wrong
  argument,    // the caller passed something impossible
  memory,      // not enough memory
  busy,        // the model is running another call
  rank_lost,   // a rank that shares the experts is gone, slow beyond its bound or out of step: the group is over
  device,      // the GPU is not there or has failed: after a failure only a new process can use it again
  internal,    // a bug, or the operating system refused something
};

// The code as JavaScript sees it in `error.code`.
inline const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::checkpoint:
      return "checkpoint";
    case ErrorCode::argument:
      return "argument";
    case ErrorCode::memory:
      return "memory";
    case ErrorCode::busy:
      return "busy";
    case ErrorCode::rank_lost:
      return "rank-lost";
    case ErrorCode::device:
      return "device";
    case ErrorCode::internal:
      break;
  }
  return "internal";
}

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, bool by_itself = false)
      : std::runtime_error(message), code_(code), by_itself_(by_itself) {}
  ErrorCode code() const { return code_; }
  // Of rank_lost: the rank left its group to go on in another one. Nobody is lost.
  bool by_itself() const { return by_itself_; }

 private:
  ErrorCode code_;
  bool by_itself_;
};

}  // namespace pelagic
