#include "ops/grouped_gemm/grouped_gemm_kernel.cuh"

namespace pelagic::grouped_gemm {

const Entry& fp8_entry(GroupedGemmTile tile) {
  constexpr GroupedGemmType kType = GroupedGemmType::fp8_block_scaled;
  static constexpr Entry entries[] = {
      entry_of<Tile<kType, 64, 8, 1>>(),    entry_of<Tile<kType, 64, 16, 1>>(),  entry_of<Tile<kType, 64, 32, 1>>(),
      entry_of<Tile<kType, 64, 64, 1>>(),   entry_of<Tile<kType, 128, 8, 1>>(),  entry_of<Tile<kType, 128, 16, 1>>(),
      entry_of<Tile<kType, 128, 32, 1>>(),  entry_of<Tile<kType, 128, 64, 1>>(), entry_of<Tile<kType, 256, 128, 1>>(),
      entry_of<Tile<kType, 256, 128, 2>>(),
  };
  return entries[static_cast<int>(tile)];
}

}  // namespace pelagic::grouped_gemm
