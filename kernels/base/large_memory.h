// Memory for packed weights and the latent cache: carved out of large chunks that the kernel may back with 2 MiB pages.
// Weights are read end to end in every step, and with 4 KiB pages address translation costs a good part of that.
#pragma once

#include <cstddef>
#include <memory>

namespace pelagic {

// Zeroed, on a 64-byte boundary. A chunk goes back to the system when nothing in it is used any more. Safe from several
// threads. Throws std::bad_alloc.
std::shared_ptr<std::byte[]> large_memory(std::size_t bytes);

}  // namespace pelagic
