// Rows of the bf16 embedding table on the GPU, as float32 (the residual stream) or bf16.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/row_type.h"

namespace pelagic {

// What the device noted in `errors`: words that it sets to 1 and never clears.
enum EmbeddingCudaError {
  kEmbeddingBadToken,  // an id outside of the vocabulary: its row is not written
  kEmbeddingErrors,
};

struct EmbeddingCudaCall {
  int rows;
  int width;  // a multiple of 8
  int vocab;
  // Device memory; rows begin at a multiple of 16 bytes.
  const void* table;         // bf16 [vocab, width]
  const std::uint32_t* ids;  // [rows]
  void* out;                 // [rows, width]
  RowType out_type;
  std::int64_t ld_out;
  std::int32_t* errors;  // [kEmbeddingErrors]
};

cudaError_t embedding_cuda(const EmbeddingCudaCall& call, cudaStream_t stream);

}  // namespace pelagic
