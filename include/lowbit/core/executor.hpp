// core/executor.hpp: how a caller lends threads to lowbit, which starts none of its own. Layer L1.
#pragma once

#include <type_traits>
#include <utility>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// A non-owning reference to a callable. Valid only while the callable lives.
template <class Signature>
class function_ref;

namespace detail {
/// An object that can be called as Result(Args...) and is not itself a function_ref (which is
/// copied instead).
template <class Callable, class Ref, class Result, class... Args>
concept callable_for = !std::is_same_v<std::remove_cvref_t<Callable>, Ref> &&
                       !std::is_function_v<std::remove_reference_t<Callable>> &&
                       std::is_invocable_r_v<Result, Callable&, Args...>;
}  // namespace detail

template <class Result, class... Args>
class function_ref<Result(Args...)> {
 public:
  template <detail::callable_for<function_ref, Result, Args...> Callable>
  function_ref(Callable&& callable) noexcept  // NOLINT: implicit on purpose
      : object_(const_cast<void*>(static_cast<const void*>(&callable))),
        call_([](void* object, Args... args) -> Result {
          auto& target = *static_cast<std::remove_reference_t<Callable>*>(object);
          if constexpr (std::is_void_v<Result>) {
            static_cast<void>(target(std::forward<Args>(args)...));
          } else {
            return target(std::forward<Args>(args)...);
          }
        }) {}
  /// A plain function, which is no object.
  function_ref(Result (&function)(Args...)) noexcept  // NOLINT: implicit on purpose
      : object_(reinterpret_cast<void*>(&function)),
        call_([](void* object, Args... args) -> Result {
          return reinterpret_cast<Result (*)(Args...)>(object)(std::forward<Args>(args)...);
        }) {}

  Result operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  Result (*call_)(void*, Args...);
};

/// Runs tasks on the caller's threads. Results never depend on how tasks are spread over workers.
class executor {
 public:
  /// What a task is told: its number, and which of the workers() runs it (to pick a workspace).
  using task = function_ref<void(index_t task, index_t worker)>;

  virtual ~executor() = default;
  /// How many tasks may run at the same time; at least 1.
  [[nodiscard]] virtual index_t workers() const noexcept = 0;
  /// Calls run(i, worker) once for every i < tasks, in any order, and returns when all are done.
  /// No two calls that overlap in time get the same worker. An exception of a task is rethrown.
  virtual void parallel_for(index_t tasks, task run) = 0;
};

/// Runs every task on the calling thread. Stateless, hence thread-safe.
class serial_executor final : public executor {
 public:
  [[nodiscard]] index_t workers() const noexcept override { return 1; }
  void parallel_for(index_t tasks, task run) override {
    for (index_t i = 0; i < tasks; ++i) run(i, 0);
  }
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
