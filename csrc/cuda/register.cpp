// The ops that have CUDA kernels, registered against the schemas of the main library.
#include "../ops.h"

STABLE_TORCH_LIBRARY_IMPL(spikefuse, CUDA, m) {
  using namespace spikefuse;
  m.impl("pack_spikes", TORCH_BOX(&cuda::pack_spikes));
  m.impl("unpack_spikes", TORCH_BOX(&cuda::unpack_spikes));
  m.impl("poisson_encode", TORCH_BOX(&cuda::poisson_encode));
}
