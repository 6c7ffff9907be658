# PELAGIC_INTERFACE_ID: changes whenever a header does that the engine and pelagic_cuda.so must have in common. Both builds
# compute it, and the shared object refuses an engine with another one.
set(interface_dir ${CMAKE_CURRENT_LIST_DIR}/..)
set(PELAGIC_INTERFACE_ID "")
foreach(header IN ITEMS backend/backend.h backend/cpu/cpu_ops.h backend/cuda/cuda_plugin.h base/cpu_features.h graph/error.h
    ops/gate/gate.h ops/gemm/gemm.h ops/kv_cache/kv_cache.h ops/mla_attention/mla_attention.h ops/moe/moe.h
    ops/rms_norm/rms_norm.h ops/rope/rope.h ops/row_math/row_math.h ops/sampler/sampler.h ops/silu_mul/silu_mul.h
    ranks/expert_exchange.h ranks/expert_plan.h ranks/rank_group.h)
  file(SHA256 ${interface_dir}/${header} header_hash)
  string(APPEND PELAGIC_INTERFACE_ID ${header_hash})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${interface_dir}/${header})
endforeach()
string(SHA256 PELAGIC_INTERFACE_ID "${PELAGIC_INTERFACE_ID}")
string(SUBSTRING ${PELAGIC_INTERFACE_ID} 0 16 PELAGIC_INTERFACE_ID)
