/*
 * What a chunk server needs of a disk and Node does not offer:
 *
 *   punch(fd, offset, length) -> promise   fallocate(2) with FALLOC_FL_PUNCH_HOLE, of 0 or of -errno; it can wait for the disk's
 *                                          journal, so it runs on the thread pool; offset and length are doubles with whole numbers
 *   addressWithin(buffer, unit) -> number  the address of the buffer's first byte modulo unit, for O_DIRECT
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <node_api.h>
#include <stdint.h>
#include <stdlib.h>

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

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "addressWithin", NAPI_AUTO_LENGTH, address_within, NULL, &function);
  napi_set_named_property(env, exports, "addressWithin", function);
  napi_create_function(env, "punch", NAPI_AUTO_LENGTH, punch, NULL, &function);
  napi_set_named_property(env, exports, "punch", function);
  return exports;
}
