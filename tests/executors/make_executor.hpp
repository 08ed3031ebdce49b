// make_executor.hpp: the adapter under test. Each executable links one definition of it.
#pragma once

#include <memory>

#include "lowbit/core/executor.hpp"

/// A new executor of that many workers, with threads of its own to lend.
std::unique_ptr<lowbit::executor> make_executor(lowbit::index_t workers);
