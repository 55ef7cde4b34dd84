// A stand-in for CUDA's runtime library, whose device memory is ordinary memory. It launches nothing and logs what it is
// asked to do, so that ONNX Runtime's real CUDA provider runs on a machine without a GPU: its options, its partition of the
// graph, its copies, streams, launches and captures are real; its results and times are not.
//   FAKE_LOG=FILE       log every call, with time and thread
//   FAKE_COPY_GATE=FILE, FAKE_RUN_GATE=FILE, FAKE_CAPTURE_GATE=FILE
//                       a large copy to the device, a wait for a stream, or a capture ends when FILE exists, or fails
//                       after 20 s
//   FAKE_NO_COPY=1      copies to the device move nothing, as a GPU's own copies cost the host nothing, and what is
//                       copied from it is 0
//   FAKE_NONE=1         there is no device
//   FAKE_NO_PIN=1       no memory can be page-locked
//   FAKE_BREAK=FILE     while FILE exists, what reaches the device fails with 700, as after an illegal access
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct { unsigned x, y, z; } dim3;
static __thread int last; // the error that cudaGetLastError takes away

void fake_log(const char *format, ...) {
  static FILE *out;
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  const char *path = getenv("FAKE_LOG");
  if (!path) return;
  pthread_mutex_lock(&lock);
  if (!out && (out = fopen(path, "a"))) setvbuf(out, 0, _IOLBF, 0);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  fprintf(out, "%ld.%06ld %ld ", now.tv_sec, now.tv_nsec / 1000, syscall(SYS_gettid));
  va_list rest;
  va_start(rest, format);
  vfprintf(out, format, rest);
  va_end(rest);
  fputc('\n', out);
  pthread_mutex_unlock(&lock);
}
#define L fake_log
static int broken(void) { char *path = getenv("FAKE_BREAK"); return path && access(path, F_OK) == 0 ? (last = 700) : 0; }

// While a thread captures a graph in the global mode, calls that are not recorded fail in it, and in all threads that have
// not set the relaxed mode; such a call also spoils the capture.
enum { GLOBAL, THREAD_LOCAL, RELAXED };
static __thread int mode = GLOBAL;
static volatile long capturing_thread;
static void *volatile capturing_stream;
static volatile int spoilt;
int cudaThreadExchangeStreamCaptureMode(int *new_mode) { int old = mode; mode = *new_mode; *new_mode = old; return 0; }
static int prohibited(const char *call) {
  long thread = syscall(SYS_gettid), capturing = capturing_thread;
  if (!capturing || (capturing != thread && mode == RELAXED)) return 0;
  L("prohibited %s", call);
  spoilt = 1;
  return last = 900;
}
static int wait_at(const char *name) {
  char *gate = getenv(name);
  for (int i = 0; gate && access(gate, F_OK); i++) {
    if (i == 20000) return last = 999;
    usleep(1000);
  }
  return 0;
}

// kernels, by the name that they were registered under
static struct { const void *host; const char *name; } kernels[400000];
static int known;
void **__cudaRegisterFatBinary(void *binary) { void **handle = malloc(64); *handle = binary; return handle; }
void __cudaRegisterFatBinaryEnd(void **h) {}
void __cudaUnregisterFatBinary(void **h) {}
void __cudaRegisterVar(void **h, char *v, char *a, const char *n, int e, size_t s, int c, int g) {}
void __cudaRegisterFunction(void **h, const char *host, char *d, const char *name, int l, void *t, void *b, void *bd, void *gd, int *w) {
  if (known < 400000) { kernels[known].host = host; kernels[known++].name = name; }
}
static const char *name_of(const void *host) {
  for (int i = 0; i < known; i++) if (kernels[i].host == host) return kernels[i].name;
  return "?";
}
static __thread struct { dim3 grid, block; size_t shared; void *stream; } stack[16];
static __thread int depth;
unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, void *stream) {
  stack[depth].grid = g; stack[depth].block = b; stack[depth].shared = s; stack[depth++].stream = stream; return 0;
}
int __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *s, void *stream) {
  depth--; *g = stack[depth].grid; *b = stack[depth].block; *s = stack[depth].shared; *(void **)stream = stack[depth].stream; return 0;
}
int __cudaGetKernel(void **k, const void *f) { *k = (void *)f; return 0; }
static int launched(const void *f, dim3 g, dim3 b, void *stream) {
  if (getenv("FAKE_LOG")) L("launch stream=%p grid=%u,%u,%u block=%u %s", stream, g.x, g.y, g.z, b.x * b.y * b.z, name_of(f));
  return broken();
}
int __cudaLaunchKernel(void *f, dim3 g, dim3 b, void **a, size_t s, void *stream) { return launched(f, g, b, stream); }
int cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, void *stream) { return launched(f, g, b, stream); }
int cudaLaunchCooperativeKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, void *stream) { return launched(f, g, b, stream); }
int cudaLaunchKernelExC(const void *c, const void *f, void **a) { L("launch %s", name_of(f)); return 0; }
int cudaLaunchHostFunc(void *stream, void (*f)(void *), void *user) { L("hostfunc stream=%p", stream); f(user); return 0; }

// one device: an H100 by its numbers, at the places where CUDA 13 has them
int cudaGetDeviceProperties(void *p, int device) {
  char *b = p;
  memset(b, 0, 1008);
  strcpy(b, "Fake H100");
#define SIZE(at, v) *(size_t *)(b + at) = (v)
#define INT(at, v) *(int *)(b + at) = (v)
  SIZE(288, 80000000000ull); SIZE(296, 49152); INT(304, 65536); INT(308, 32); INT(320, 1024);
  INT(324, 1024); INT(328, 1024); INT(332, 64); INT(336, 2147483647); INT(340, 65535); INT(344, 65535);
  INT(360, 9); INT(364, 0); INT(384, 132); INT(560, 1); INT(588, 1); INT(596, 50 << 20); INT(604, 2048);
  SIZE(624, 233472); INT(632, 65536); INT(668, 1); SIZE(672, 232448); INT(688, 32); INT(704, 1); INT(720, 1);
  return 0;
}
int cudaGetDeviceCount(int *n) { int none = getenv("FAKE_NONE") != 0; L("cudaGetDeviceCount"); *n = !none; return none ? 100 : 0; }
int cudaGetDevice(int *d) { *d = 0; return 0; }
int cudaSetDevice(int d) { L("cudaSetDevice %d", d); return 0; }
int cudaDeviceSynchronize(void) { L("cudaDeviceSynchronize"); return prohibited("cudaDeviceSynchronize"); }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDeviceGetAttribute(int *v, int a, int d) {
  switch (a) {
    case 1: *v = 1024; break; case 8: *v = 49152; break; case 10: *v = 32; break; case 16: *v = 132; break; case 18: *v = 0; break;
    case 38: *v = 50 << 20; break; case 39: *v = 2048; break; case 75: *v = 9; break; case 76: *v = 0; break;
    case 81: *v = 233472; break; case 97: *v = 232448; break; default: *v = 1;
  }
  return 0;
}
const char *cudaGetErrorName(int e) { return e ? "cudaErrorFake" : "cudaSuccess"; }
const char *cudaGetErrorString(int e) { return e == 100 ? "no CUDA-capable device is detected" : e == 900 ? "operation not permitted when stream is capturing" : e == 901 ? "operation failed due to a previous error during capture" : e == 700 ? "an illegal memory access was encountered" : e ? "a fake error" : "no error"; }
int cudaGetLastError(void) { int e = last; last = 0; return e; }
int cudaPeekAtLastError(void) { return last; }
int cudaFuncGetAttributes(void *a, const void *f) { memset(a, 0, 128); return 0; }
int cudaFuncSetAttribute(const void *f, int a, int v) { return 0; }
int cudaKernelSetAttributeForDevice(void *k, int a, int v, int d) { return 0; }
int cudaLibraryGetKernel(void **k, void *l, const char *n) { *k = (void *)n; return 0; }
int cudaLibraryLoadData(void **l, const void *c, void *a, void *b, unsigned n, void *e, void *f, unsigned m) { *l = (void *)1; return 0; }
int cudaLibraryUnload(void *l) { return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned flags) { *n = 2; return 0; }
int cudaGetDriverEntryPointByVersion(const char *s, void **p, unsigned v, unsigned long long f, void *r) { *p = 0; return 801; }

// memory, set to 0: what kernels would have computed is finite
static size_t used;
int cudaMalloc(void **p, size_t n) {
  if (prohibited("cudaMalloc")) return 900;
  if (posix_memalign(p, 256, n ? n : 256)) return 2;
  memset(*p, 0, n);
  L("cudaMalloc %zu total=%zu", n, __sync_add_and_fetch(&used, n));
  return 0;
}
int cudaFree(void *p) { L("cudaFree"); if (prohibited("cudaFree")) return 900; free(p); return broken(); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *s) { return cudaMalloc(p, n); }
int cudaFreeAsync(void *p, void *s) { return cudaFree(p); }
int cudaHostAlloc(void **p, size_t n, unsigned f) { L("cudaHostAlloc %zu", n); if (prohibited("cudaHostAlloc")) return 900; return posix_memalign(p, 256, n ? n : 256) ? 2 : 0; }
int cudaMallocHost(void **p, size_t n) { return cudaHostAlloc(p, n, 0); }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaHostRegister(void *p, size_t n, unsigned f) { L("cudaHostRegister %zu", n); return getenv("FAKE_NO_PIN") ? (last = 801) : 0; }
int cudaHostUnregister(void *p) { L("cudaHostUnregister"); return 0; }
static const char *way(int kind) { return kind == 1 ? "HtoD" : kind == 2 ? "DtoH" : kind == 3 ? "DtoD" : kind ? "any" : "HtoH"; }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) {
  L("cudaMemcpy(sync) %s %zu", way(kind), n);
  if (prohibited("cudaMemcpy")) return 900;
  if (kind == 1 && n > 100000 && wait_at("FAKE_COPY_GATE")) return last;
  if (!getenv("FAKE_NO_COPY")) memcpy(to, from, n);
  else if (kind == 2) memset(to, 0, n);
  return broken();
}
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *s) {
  L("cudaMemcpyAsync stream=%p %s %zu", s, way(kind), n);
  if (kind == 2 && getenv("FAKE_NO_COPY")) memset(to, 0, n);
  else memcpy(to, from, n);
  return broken();
}
int cudaMemcpy2DAsync(void *to, size_t tp, const void *from, size_t fp, size_t w, size_t h, int k, void *s) { for (size_t i = 0; i < h; i++) memcpy((char *)to + i * tp, (char *)from + i * fp, w); return 0; }
int cudaMemcpyFromSymbol(void *to, const void *s, size_t n, size_t o, int k) { memset(to, 0, n); return 0; }
int cudaMemset(void *p, int v, size_t n) { L("cudaMemset(sync) %zu", n); if (prohibited("cudaMemset")) return 900; memset(p, v, n); return 0; }
int cudaMemsetAsync(void *p, int v, size_t n, void *s) { L("cudaMemsetAsync stream=%p %zu", s, n); memset(p, v, n); return 0; }
int cudaMemGetInfo(size_t *f, size_t *t) { *t = 80000000000ull; *f = *t - used; return 0; }
int cudaPointerGetAttributes(void *a, const void *p) { memset(a, 0, 64); return 0; }
int cudaMemPoolCreate(void **p, const void *q) { *p = (void *)1; return 0; }
int cudaMemPoolDestroy(void *p) { return 0; }
int cudaMemPoolGetAttribute(void *p, int a, void *v) { *(uint64_t *)v = 0; return 0; }
int cudaMemPoolSetAttribute(void *p, int a, void *v) { return 0; }
int cudaMemPoolTrimTo(void *p, size_t n) { return 0; }

// streams, events, graphs
static long ids = 0x1000;
static void *fresh(void) { return (void *)__sync_add_and_fetch(&ids, 1); }
int cudaStreamCreateWithFlags(void **s, unsigned f) { *s = fresh(); L("streamCreate %p flags=%u", *s, f); return 0; }
int cudaStreamCreate(void **s) { return cudaStreamCreateWithFlags(s, 0); }
int cudaStreamDestroy(void *s) { L("streamDestroy %p", s); return broken(); }
int cudaStreamSynchronize(void *s) {
  L("streamSynchronize %p", s);
  if (capturing_thread && s == capturing_stream) return prohibited("cudaStreamSynchronize");
  if (s && wait_at("FAKE_RUN_GATE")) return last;
  return broken();
}
int cudaStreamWaitEvent(void *s, void *e, unsigned f) { L("streamWaitEvent %p %p", s, e); return 0; }
int cudaStreamIsCapturing(void *s, int *c) { *c = capturing_thread && s == capturing_stream; return 0; }
int cudaStreamBeginCapture(void *s, int m) {
  L("beginCapture %p mode=%d", s, m);
  capturing_stream = s;
  spoilt = 0;
  if (m == GLOBAL) capturing_thread = syscall(SYS_gettid);
  return 0;
}
int cudaStreamEndCapture(void *s, void **g) {
  if (wait_at("FAKE_CAPTURE_GATE")) return last;
  L("endCapture %p", s);
  capturing_thread = 0;
  *g = spoilt ? 0 : fresh();
  return spoilt ? (last = 901) : 0;
}
int cudaGraphInstantiate(void **e, void *g, unsigned long long f) { *e = g; return 0; }
int cudaGraphLaunch(void *e, void *s) { L("graphLaunch %p stream=%p", e, s); return broken(); }
int cudaGraphDestroy(void *g) { return 0; }
int cudaGraphExecDestroy(void *g) { return 0; }
int cudaEventCreateWithFlags(void **e, unsigned f) { *e = fresh(); return 0; }
int cudaEventCreate(void **e) { *e = fresh(); return 0; }
int cudaEventDestroy(void *e) { return broken(); }
int cudaEventElapsedTime(float *f, void *a, void *b) { *f = 0; return 0; }
int cudaEventRecord(void *e, void *s) { L("eventRecord %p stream=%p", e, s); return broken(); }
int cudaEventRecordWithFlags(void *e, void *s, unsigned f) { return cudaEventRecord(e, s); }
int cudaEventSynchronize(void *e) { L("eventSynchronize %p", e); return 0; }
