# Sourced by the launchers beside it: the XLA flags of a platform, each with its reason.
#
#   platform NAME       NAME is cpu, gpu or tpu
#
# What is set already stays: a flag of yours comes last and counts.

platform() {
    case $1 in
    cpu)
        export JAX_PLATFORMS=cpu
        ;;
    gpu)
        # Overlaps the collectives of one layer with the arithmetic of the next.
        flags="--xla_gpu_enable_latency_hiding_scheduler=true"
        # Collectives run on streams of a higher priority, or a long kernel holds them up.
        flags="$flags --xla_gpu_enable_highest_priority_async_stream=true"
        export XLA_FLAGS="$flags ${XLA_FLAGS:-}"
        # Leaves a tenth of the memory to NCCL and cuDNN, which allocate beside JAX.
        export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.90}"
        # One process per node drives all its GPUs; NCCL then finds NVLink by itself.
        export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
        ;;
    tpu)
        # Gathers of sharded weights run while the layer before computes.
        flags="--xla_tpu_enable_async_collective_fusion=true"
        flags="$flags --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
        flags="$flags --xla_tpu_overlap_compute_collective_tc=true"
        flags="$flags --xla_enable_async_all_gather=true"
        export LIBTPU_INIT_ARGS="$flags ${LIBTPU_INIT_ARGS:-}"
        ;;
    *)
        echo "error: platform: '$1'; cpu, gpu or tpu" >&2
        return 2
        ;;
    esac
    # The second start of a program compiles nothing. Set it to a folder that all nodes share.
    export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/facejax}"
}
