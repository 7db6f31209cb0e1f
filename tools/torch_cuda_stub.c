// What spikefuse's CUDA library needs of libtorch_cuda beyond what a CPU build of torch has: enough to link it, and to
// see its ops registered, on a machine without CUDA torch. Nothing here is ever called.
#include <stdlib.h>

__attribute__((visibility("default"))) int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  (void)device, (void)stream;
  abort();
}

__attribute__((visibility("default"))) int torch_c10_cuda_check_msg(int error, const char* file, const char* function,
                                                                    unsigned line, int device_asserts, char** message) {
  (void)error, (void)file, (void)function, (void)line, (void)device_asserts, (void)message;
  abort();
}

__attribute__((visibility("default"))) void torch_c10_cuda_free_error_msg(char* message) {
  (void)message;
  abort();
}
