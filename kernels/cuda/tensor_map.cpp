#include "cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "cuda/check.h"

namespace pelagic {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode encode_function() {
  static const Encode function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    constexpr unsigned kSinceCuda = 12000;
    PELAGIC_CUDA(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, kSinceCuda, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) throw std::runtime_error("the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<Encode>(entry);
  }();
  return function;
}

}  // namespace

CUtensorMap make_tensor_map(const void* base, const MapShape& shape) {
  CUtensorMap map;
  const cuuint64_t sizes[2] = {shape.columns, shape.rows};
  const cuuint64_t strides[1] = {shape.row_bytes};
  const cuuint32_t box[2] = {shape.box_columns, shape.box_rows};
  const cuuint32_t steps[2] = {1, 1};
  const CUtensorMapSwizzle swizzle =
      shape.swizzle == MapSwizzle::bytes_128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE;
  const CUresult result = encode_function()(&map, shape.type, 2, const_cast<void*>(base), sizes, strides, box, steps,
                                            CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw std::runtime_error("the driver refuses a tensor map of " + std::to_string(shape.rows) + " x " +
                             std::to_string(shape.columns) + ": error " + std::to_string(static_cast<int>(result)));
  return map;
}

}  // namespace pelagic
