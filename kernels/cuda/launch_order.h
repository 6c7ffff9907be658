// Whether kernels that this thread launches may begin early (dependents.cuh). Where they may not, they run one after
// another.
#pragma once

namespace pelagic {

inline thread_local bool launches_begin_early = true;

}  // namespace pelagic
