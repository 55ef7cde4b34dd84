"""List the settings for `--help`, which must work before any package is installed.

Generated from service/settings.py by `scripts/check --fix`.
"""

from typing import Final

# [[[cog print(settings.cli_help()) ]]]
SETTINGS: Final = """\
  HOST
      Address or host name to listen on, without port. 0.0.0.0 for all IPv4 addresses, as in a
      container; :: for IPv6 as well. (default 127.0.0.1)
  PORT
      TCP port. 0 picks a free one and prints it. (default 8000)
  API_KEYS_FILE
      File with one SHA-256 (hex) of an API key per line. Everything but the page and the health
      checks then requires `Authorization: Bearer KEY`. Re-read on SIGHUP. Unset: no keys.
  ADMIN_KEYS_FILE
      The same for keys that may also load and unload models. They are valid everywhere else
      too.
  CORS_ORIGINS
      Comma-separated origins whose pages may call the service from a browser, such as
      https://example.org (no path). * allows all.
  ALLOWED_HOSTS
      Comma-separated host names accepted in the Host header, without ports; * accepts all.
      Others get 400, which prevents DNS rebinding; addresses are always accepted. Unset: all,
      but on a loopback HOST only localhost, HOST and names without a dot.
  TRUSTED_PROXIES
      Comma-separated addresses or networks of proxies whose X-Forwarded-For is used as the
      client address in the log. Unset: none.
  LOG_FORMAT
      text: warnings and errors on stderr. json: one object per line on stdout, also for every
      request except health checks answered 200. (default text)
  MODELS
      Folder of the models to serve: NAME.onnx, or NAME/VERSION/model.onnx for several versions
      of a model. (default models)
  MODEL
      A single model file to serve. MODELS and DEFAULT_MODEL are then ignored.
  DEFAULT_MODEL
      Name of the model for requests that name none. It stays the default for as long as it is
      served. Unset: the only model, else flowers17, else such requests get 422.
  WATCH_MODEL
      1: load model files that are new or replaced and switch to them between batches, as SIGHUP
      does. A file that fails to load changes nothing and is reported in /health. (default 0)
  DEVICE
      auto, cpu or cuda. cuda refuses to start without a working GPU; auto falls back to the CPU
      and, if there is a GPU, logs why. (default auto)
  TF32
      1: the GPU multiplies float32 with 10-bit mantissas (TF32), which is faster. 0: results
      match the CPU's. fp16 files always use tensor cores. (default 0)
  GPU_MEMORY_BYTES
      Bytes of GPU memory for the weights and activations of each model; CUDA and cuDNN use some
      more. 0: no limit. (default 0)
  WORKERS
      Processes sharing the port, each with its own models and limits. auto: half the number of
      cores as far as memory allows, and at least one per GPU. With more than one, models are
      loaded and unloaded by SIGHUP or WATCH_MODEL only. (default 1)
  THREADS
      Threads per worker for decoding, and for inference. 0: the cores available to the process,
      divided among the workers. (default 0)
  PIN_CORES
      1: each decoding thread stays on one core if there is a core for each (Linux only). 0: the
      kernel schedules them, which lowers latency where other programs share the machine.
      (default 1)
  DECODE_PROCESSES
      Processes per worker for decoding (Linux only), each limited in memory and restarted when
      an image crashes it. One per thread if images come from untrusted clients. 0: decode in
      threads. (default 0)
  DECODE
      gpu: nvJPEG decodes baseline JPEGs on the GPU (extra gpu-decode). Its pixels differ
      slightly, and responses say so. Other files are decoded in threads; not with
      DECODE_PROCESSES. (default cpu)
  MAX_BATCH
      Maximum images per batch. More helps GPUs and costs memory. (default 32)
  MAX_WAIT_MS
      Milliseconds to wait for a full batch. 0: run a batch as soon as a thread is idle. Raise
      it only if a benchmark gains from it; on an H200, 3 did not. (default 0)
  MAX_QUEUE
      Maximum images in flight, counted once their body has arrived. Each crop, and each
      occlusion of /explain, counts as one. Beyond it: 429. (default 256)
  MAX_QUEUE_PER_KEY
      Maximum images in flight per API key. Set it if clients are unrelated. 0: MAX_QUEUE.
      (default 0)
  MAX_BODY_BYTES
      Bytes of one request body: the largest photograph you expect. (default 20000000)
  MAX_QUEUE_BYTES
      Bytes of all request bodies in memory, counted as they arrive; at least MAX_BODY_BYTES.
      Beyond it: 429. Responses not yet read by their clients may take a quarter of it in
      addition. (default 500000000)
  MAX_PIXELS
      Pixels of one image: the largest photograph you expect. All images being decoded share 6
      bytes for each. A JPEG may have all of these pixels, most other formats three quarters.
      (default 67000000)
  DECODE_TIMEOUT_MS
      Milliseconds to decode one image; then 422. A thread keeps decoding afterwards; only a
      process (DECODE_PROCESSES) is killed. 0: no limit. (default 10000)
  BODY_TIMEOUT_S
      Seconds to receive a request body. Extended while at least 16 KiB/s arrive on average
      without a pause of that length. (default 20)
  REQUEST_TIMEOUT_S
      Seconds from the arrival of a body to its response; then 504, and no inference is run for
      it. (default 30)
  MAX_CONNECTIONS
      Maximum open connections, about 10 KB each. Beyond it a new connection replaces the one
      that has waited longest for a request; if all have one, it gets 503. (default 1000)
  MAX_HEADER_BYTES
      Bytes of a request line and its headers (at most 100, each counted with 32 more), and of
      its trailers. Beyond it: 431. (default 65536)
  HEADER_TIMEOUT_S
      Seconds from the first byte of a request to the end of its headers, and to the first byte
      on a new connection. (default 10)
  KEEP_ALIVE_TIMEOUT_S
      Seconds that an idle connection stays open after a response. Raise it if clients pause
      between requests. (default 5)
  WRITE_TIMEOUT_S
      Seconds for a client to read its response, or at least 16 KiB per second of it; then the
      connection is closed. (default 30)
  DRAIN_DELAY_S
      Seconds after SIGTERM in which connections are still accepted while /health/ready returns
      503. Behind a load balancer: slightly more than it takes to notice. (default 0)
  DRAIN_TIMEOUT_S
      Seconds for requests in flight to finish after DRAIN_DELAY_S. Keep the sum of both below
      the container's stop grace period. (default 20)
"""
SWITCHES: Final = {
    "WATCH_MODEL",
    "TF32",
    "PIN_CORES",
}
# [[[end]]]
