// tests/io/child.hpp: runs code in a process of its own, which may be killed or limited.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <string>

#include "catch.hpp"

namespace lowbit_test {

/// A forked process. It ends itself with _exit, so that nothing of the parent runs twice.
class child {
 public:
  /// Runs body(report) in the child; report(text) is what report() of the parent returns. An
  /// exception that leaves `body` is reported by its message.
  template <class Body>
  explicit child(Body&& body) {
    int ends[2] = {-1, -1};
    REQUIRE(::pipe(ends) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) run(body, ends[1]);
    ::close(ends[1]);
    read_end_ = ends[0];
  }
  child(const child&) = delete;
  child& operator=(const child&) = delete;
  ~child() {
    kill();
    ::close(read_end_);
  }

  /// The next line that the child reports; "" when it has ended.
  std::string report() {
    std::string line;
    for (char c = 0; ::read(read_end_, &c, 1) == 1 && c != '\n';) line += c;
    return line;
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  template <class Body>
  [[noreturn]] static void run(Body& body, int write_end) {
    const auto report = [write_end](std::string line) {
      line += '\n';
      if (::write(write_end, line.data(), line.size()) < 0) ::_exit(2);
    };
    try {
      body(report);
    } catch (const std::exception& e) {
      report(e.what());
    }
    ::_exit(0);
  }

  pid_t pid_ = 0;
  int read_end_ = -1;
};

}  // namespace lowbit_test
