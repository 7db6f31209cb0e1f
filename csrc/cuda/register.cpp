// Registers the CUDA kernels of the ops, against the schemas of the main library.
#include "../schemas.h"

STABLE_TORCH_LIBRARY_IMPL(spikefuse, CUDA, m) { SPIKEFUSE_IMPLEMENT_OPS(spikefuse::cuda); }
