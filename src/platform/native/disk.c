/*
 * What a chunk server needs of a disk and Node does not offer:
 *
 *   punch(fd, offset, length) -> promise   fallocate(2) with FALLOC_FL_PUNCH_HOLE, of 0 or of -errno; it can wait for the disk's
 *                                          journal, so it runs on the thread pool; offset and length are doubles with whole numbers
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
#ifdef __x86_64__
#include <nmmintrin.h>
#endif

struct punch {
  int fd;
  off_t offset;
  off_t length;
  int result;
  napi_async_work work;
  napi_deferred deferred;
};

static void execute(napi_env env, void *data) {
  (void)env;
  struct punch *p = data;
  int result;
  do {
    result = fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, p->offset, p->length);
  } while (result != 0 && errno == EINTR);
  p->result = result == 0 ? 0 : -errno;
}

static void complete(napi_env env, napi_status status, void *data) {
  struct punch *p = data;
  napi_value result;
  napi_create_int32(env, status == napi_ok ? p->result : -ECANCELED, &result);
  napi_resolve_deferred(env, p->deferred, result);
  napi_delete_async_work(env, p->work);
  free(p);
}

static napi_value punch(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value args[3], promise, name;
  double offset, length;
  struct punch *p = calloc(1, sizeof *p);
  if (p == NULL || napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok || count != 3 ||
      napi_get_value_int32(env, args[0], &p->fd) != napi_ok || napi_get_value_double(env, args[1], &offset) != napi_ok ||
      napi_get_value_double(env, args[2], &length) != napi_ok || napi_create_promise(env, &p->deferred, &promise) != napi_ok) {
    free(p);
    napi_throw_type_error(env, NULL, "punch(fd, offset, length)");
    return NULL;
  }
  p->offset = (off_t)offset;
  p->length = (off_t)length;
  napi_create_string_utf8(env, "shoal:punch", NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(env, NULL, name, execute, complete, p, &p->work);
  napi_queue_async_work(env, p->work);
  return promise;
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
  return exports;
}
