/*
 * What a chunk server needs of a disk and Node does not offer:
 *
 *   punch(fd, offset, length) -> promise   fallocate(2) with FALLOC_FL_PUNCH_HOLE, of 0 or of -errno; it can wait for the disk's
 *                                          journal, so it runs on the thread pool; offset and length are doubles with whole numbers
 *   writeAndSync(fd, buffers, positions)   pwrite(2) of each buffer at its position, then fdatasync(2), in one job of the thread pool:
 *     -> promise                           each job costs two changes of threads, more than it takes to write a little. Of 0, -errno of the
 *                                          first write that failed (nothing is synced then) or errno of fdatasync
 *   addressWithin(buffer, unit) -> number  the address of the buffer's first byte modulo unit, for O_DIRECT
 *   blockChecksums(data, unit, out)        CRC-32C of each whole unit of data, 4 bytes little-endian each; only where the processor has
 *                                          an instruction for it (x86-64 with SSE 4.2). unit is a multiple of 8
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <node_api.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __x86_64__
#include <nmmintrin.h>
#endif

/* What runs on the thread pool. The first member of a struct with its arguments, which is freed when it is done. */
struct job {
  int fd;
  int result;
  napi_async_work work;
  napi_deferred deferred;
  /* Keeps the memory that it works on from being collected; NULL when there is none. */
  napi_ref memory;
};

static void complete(napi_env env, napi_status status, void *data) {
  struct job *job = data;
  napi_value result;
  napi_create_int32(env, status == napi_ok ? job->result : -ECANCELED, &result);
  napi_resolve_deferred(env, job->deferred, result);
  if (job->memory != NULL) napi_delete_reference(env, job->memory);
  napi_delete_async_work(env, job->work);
  free(job);
}

/* Gives the promise of the job's result. */
static napi_value start(napi_env env, struct job *job, const char *title, napi_async_execute_callback execute) {
  napi_value promise, name;
  napi_create_promise(env, &job->deferred, &promise);
  napi_create_string_utf8(env, title, NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(env, NULL, name, execute, complete, job, &job->work);
  napi_queue_async_work(env, job->work);
  return promise;
}

struct punch {
  struct job job;
  off_t offset;
  off_t length;
};

static void execute_punch(napi_env env, void *data) {
  (void)env;
  struct punch *p = data;
  int result;
  do {
    result = fallocate(p->job.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, p->offset, p->length);
  } while (result != 0 && errno == EINTR);
  p->job.result = result == 0 ? 0 : -errno;
}

static napi_value punch(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value args[3];
  double offset, length;
  struct punch *p = calloc(1, sizeof *p);
  if (p == NULL || napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok || count != 3 ||
      napi_get_value_int32(env, args[0], &p->job.fd) != napi_ok || napi_get_value_double(env, args[1], &offset) != napi_ok ||
      napi_get_value_double(env, args[2], &length) != napi_ok) {
    free(p);
    napi_throw_type_error(env, NULL, "punch(fd, offset, length)");
    return NULL;
  }
  p->offset = (off_t)offset;
  p->length = (off_t)length;
  return start(env, &p->job, "shoal:punch", execute_punch);
}

struct span {
  const char *data;
  size_t length;
  off_t position;
};

struct write_and_sync {
  struct job job;
  uint32_t count;
  struct span spans[];
};

static int write_all(int fd, struct span span) {
  while (span.length > 0) {
    const ssize_t written = pwrite(fd, span.data, span.length, span.position);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? -errno : -EIO;
    span.data += written;
    span.length -= (size_t)written;
    span.position += written;
  }
  return 0;
}

static void execute_write_and_sync(napi_env env, void *data) {
  (void)env;
  struct write_and_sync *w = data;
  for (uint32_t i = 0; i < w->count; i++) {
    w->job.result = write_all(w->job.fd, w->spans[i]);
    if (w->job.result != 0) return;
  }
  int result;
  do {
    result = fdatasync(w->job.fd);
  } while (result != 0 && errno == EINTR);
  w->job.result = result == 0 ? 0 : errno;
}

static int span_at(napi_env env, napi_value buffers, napi_value positions, uint32_t i, struct span *span) {
  napi_value buffer, number;
  void *data;
  double position;
  if (napi_get_element(env, buffers, i, &buffer) != napi_ok || napi_get_buffer_info(env, buffer, &data, &span->length) != napi_ok ||
      napi_get_element(env, positions, i, &number) != napi_ok || napi_get_value_double(env, number, &position) != napi_ok) {
    return 0;
  }
  span->data = data;
  span->position = (off_t)position;
  return 1;
}

static napi_value write_and_sync(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value args[3];
  uint32_t spans;
  struct write_and_sync *w = NULL;
  if (napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok || count != 3 ||
      napi_get_array_length(env, args[1], &spans) != napi_ok ||
      (w = calloc(1, sizeof *w + spans * sizeof(struct span))) == NULL ||
      napi_get_value_int32(env, args[0], &w->job.fd) != napi_ok) {
    goto refuse;
  }
  for (w->count = 0; w->count < spans; w->count++) {
    if (!span_at(env, args[1], args[2], w->count, &w->spans[w->count])) goto refuse;
  }
  if (napi_create_reference(env, args[1], 1, &w->job.memory) != napi_ok) goto refuse;
  return start(env, &w->job, "shoal:writeAndSync", execute_write_and_sync);
refuse:
  free(w);
  napi_throw_type_error(env, NULL, "writeAndSync(fd, buffers, positions)");
  return NULL;
}

static napi_value address_within(napi_env env, napi_callback_info info) {
  size_t count = 2, length;
  napi_value args[2], result;
  void *data;
  uint32_t unit;
  if (napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok || count != 2 ||
      napi_get_buffer_info(env, args[0], &data, &length) != napi_ok || napi_get_value_uint32(env, args[1], &unit) != napi_ok ||
      unit == 0) {
    napi_throw_type_error(env, NULL, "addressWithin(buffer, unit)");
    return NULL;
  }
  napi_create_uint32(env, (uint32_t)((uintptr_t)data % unit), &result);
  return result;
}

#ifdef __x86_64__
/* Blocks computed side by side: the instruction takes three cycles, and one can begin in each. */
#define LANES 4

__attribute__((target("sse4.2"))) static void checksum_blocks(const uint8_t *data, size_t blocks, size_t unit, uint8_t *out) {
  for (size_t block = 0; block < blocks;) {
    const size_t lanes = blocks - block >= LANES ? LANES : 1;
    uint64_t crc[LANES] = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    const uint8_t *from = data + block * unit;
    uint64_t word;
    if (lanes == LANES) {
      for (size_t at = 0; at < unit; at += sizeof word) {
        for (size_t lane = 0; lane < LANES; lane++) {
          memcpy(&word, from + lane * unit + at, sizeof word);
          crc[lane] = _mm_crc32_u64(crc[lane], word);
        }
      }
    } else {
      for (size_t at = 0; at < unit; at += sizeof word) {
        memcpy(&word, from + at, sizeof word);
        crc[0] = _mm_crc32_u64(crc[0], word);
      }
    }
    for (size_t lane = 0; lane < lanes; lane++) {
      const uint32_t checksum = ~(uint32_t)crc[lane];
      memcpy(out + (block + lane) * sizeof checksum, &checksum, sizeof checksum);
    }
    block += lanes;
  }
}

static napi_value block_checksums(napi_env env, napi_callback_info info) {
  size_t count = 3, length, room;
  napi_value args[3];
  void *data, *out;
  uint32_t unit;
  if (napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok || count != 3 ||
      napi_get_buffer_info(env, args[0], &data, &length) != napi_ok || napi_get_value_uint32(env, args[1], &unit) != napi_ok ||
      unit == 0 || unit % 8 != 0 || napi_get_buffer_info(env, args[2], &out, &room) != napi_ok ||
      room / sizeof(uint32_t) < length / unit) {
    napi_throw_type_error(env, NULL, "blockChecksums(data, unit, out)");
    return NULL;
  }
  checksum_blocks(data, length / unit, unit, out);
  return NULL;
}
#endif

NAPI_MODULE_INIT() {
  napi_value function;
#ifdef __x86_64__
  if (__builtin_cpu_supports("sse4.2")) {
    napi_create_function(env, "blockChecksums", NAPI_AUTO_LENGTH, block_checksums, NULL, &function);
    napi_set_named_property(env, exports, "blockChecksums", function);
  }
#endif
  napi_create_function(env, "addressWithin", NAPI_AUTO_LENGTH, address_within, NULL, &function);
  napi_set_named_property(env, exports, "addressWithin", function);
  napi_create_function(env, "punch", NAPI_AUTO_LENGTH, punch, NULL, &function);
  napi_set_named_property(env, exports, "punch", function);
  napi_create_function(env, "writeAndSync", NAPI_AUTO_LENGTH, write_and_sync, NULL, &function);
  napi_set_named_property(env, exports, "writeAndSync", function);
  return exports;
}
