/*
 * The few system calls that a FUSE server wants to make without a trip through libuv's thread pool, for the event loop of Node:
 *
 *   watch(fd, callback) -> watcher   calls back whenever the descriptor is readable or has failed; keeps the process alive
 *   unwatch(watcher)                 never calls back again; harmless when repeated
 *   read(fd, buffer) -> number       read(2): bytes, or -errno
 *   socketPair() -> [ours, theirs]   two connected sockets; "theirs" can be inherited by a child, "ours" never is
 *   receive(fd) -> number            the descriptor that was sent over the socket (SCM_RIGHTS), non-blocking and closed by exec; or -errno,
 *                                    -EAGAIN when none is there. It never waits.
 *   write(fd, head, headBytes, data) -> number
 *                                    writev(2) of the first headBytes of head and, unless undefined, all of data: 0, or -errno
 *
 * The descriptor must be non-blocking, and is the caller's: unwatch comes before its close. A message to /dev/fuse is written whole
 * or not at all, so there are no short writes to go on from.
 * Source: include/uapi/linux/fuse.h, fs/fuse/dev.c; unix(7), cmsg(3); node_api.h; uv_poll_t in libuv's manual.
 */
#define NAPI_VERSION 8
#include <errno.h>
#include <fcntl.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#define CHECK(call)                                                                                                     \
  do {                                                                                                                  \
    if ((call) != napi_ok) {                                                                                            \
      napi_throw_error(env, "ERR_SHOAL_FUSE", #call);                                                                   \
      return NULL;                                                                                                      \
    }                                                                                                                   \
  } while (0)

typedef struct {
  uv_poll_t poll;
  napi_env env;
  napi_ref callback;
  napi_async_context async;
  /* uv_close was called; the memory lives until its callback and the finalizer of the JavaScript object have both come. */
  bool closing;
  bool closed;
  bool finalized;
} watcher;

static void release(watcher *w) {
  if (w->closed && w->finalized) free(w);
}

static void on_closed(uv_handle_t *handle) {
  watcher *w = handle->data;
  w->closed = true;
  release(w);
}

static void at_exit(void *data);

static void stop(watcher *w) {
  if (w->closing) return;
  w->closing = true;
  uv_poll_stop(&w->poll);
  napi_remove_env_cleanup_hook(w->env, at_exit, w);
  napi_delete_reference(w->env, w->callback);
  napi_async_destroy(w->env, w->async);
  uv_close((uv_handle_t *)&w->poll, on_closed);
}

static void at_exit(void *data) { stop(data); }

static void finalize(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  watcher *w = data;
  stop(w);
  w->finalized = true;
  release(w);
}

static void on_event(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  watcher *w = poll->data;
  napi_env env = w->env;
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value callback, global, result;
  if (napi_get_reference_value(env, w->callback, &callback) == napi_ok && napi_get_global(env, &global) == napi_ok) {
    /* What the callback throws becomes an uncaught exception, as for any other callback of the event loop. */
    if (napi_make_callback(env, w->async, global, callback, 0, NULL, &result) == napi_pending_exception) {
      napi_value thrown;
      if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok) napi_fatal_exception(env, thrown);
    }
  }
  napi_close_handle_scope(env, scope);
}

static napi_value watch_descriptor(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2], name, external;
  int32_t fd;
  uv_loop_t *loop;
  CHECK(napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
  CHECK(napi_get_value_int32(env, argv[0], &fd));
  CHECK(napi_get_uv_event_loop(env, &loop));
  CHECK(napi_create_string_utf8(env, "shoal.fuse", NAPI_AUTO_LENGTH, &name));
  watcher *w = calloc(1, sizeof *w);
  if (w == NULL) {
    napi_throw_error(env, "ENOMEM", "no memory");
    return NULL;
  }
  w->env = env;
  w->poll.data = w;
  int failed = uv_poll_init(loop, &w->poll, fd);
  if (failed != 0) {
    free(w);
    napi_throw_error(env, uv_err_name(failed), uv_strerror(failed));
    return NULL;
  }
  napi_create_reference(env, argv[1], 1, &w->callback);
  napi_async_init(env, NULL, name, &w->async);
  napi_add_env_cleanup_hook(env, at_exit, w);
  failed = uv_poll_start(&w->poll, UV_READABLE | UV_DISCONNECT, on_event);
  if (failed != 0) {
    w->finalized = true;
    stop(w);
    napi_throw_error(env, uv_err_name(failed), uv_strerror(failed));
    return NULL;
  }
  CHECK(napi_create_external(env, w, finalize, NULL, &external));
  return external;
}

static napi_value unwatch(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  void *data;
  CHECK(napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
  CHECK(napi_get_value_external(env, argv[0], &data));
  stop(data);
  return NULL;
}

static napi_value number(napi_env env, int64_t value) {
  napi_value result;
  CHECK(napi_create_int64(env, value, &result));
  return result;
}

static napi_value read_descriptor(napi_env env, napi_callback_info info) {
  size_t argc = 2, length;
  napi_value argv[2];
  int32_t fd;
  void *bytes;
  CHECK(napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
  CHECK(napi_get_value_int32(env, argv[0], &fd));
  CHECK(napi_get_buffer_info(env, argv[1], &bytes, &length));
  ssize_t count;
  do count = read(fd, bytes, length);
  while (count < 0 && errno == EINTR);
  return number(env, count < 0 ? -errno : count);
}

static napi_value write_descriptor(napi_env env, napi_callback_info info) {
  size_t argc = 4, head_room, data_length = 0;
  napi_value argv[4];
  int32_t fd;
  uint32_t head_length;
  void *head, *data = NULL;
  napi_valuetype type;
  CHECK(napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
  CHECK(napi_get_value_int32(env, argv[0], &fd));
  CHECK(napi_get_buffer_info(env, argv[1], &head, &head_room));
  CHECK(napi_get_value_uint32(env, argv[2], &head_length));
  CHECK(napi_typeof(env, argv[3], &type));
  if (type != napi_undefined) CHECK(napi_get_buffer_info(env, argv[3], &data, &data_length));
  if (head_length > head_room) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "headBytes is beyond the end of head");
    return NULL;
  }
  struct iovec parts[2] = {{head, head_length}, {data, data_length}};
  ssize_t count;
  do count = writev(fd, parts, data_length > 0 ? 2 : 1);
  while (count < 0 && errno == EINTR);
  return number(env, count < 0 ? -errno : 0);
}

static napi_value socket_pair(napi_env env, napi_callback_info info) {
  (void)info;
  int fds[2];
  napi_value pair;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    napi_throw_error(env, "ERR_SHOAL_FUSE", strerror(errno));
    return NULL;
  }
  CHECK(napi_create_array_with_length(env, 2, &pair));
  CHECK(napi_set_element(env, pair, 0, number(env, fds[0])));
  CHECK(napi_set_element(env, pair, 1, number(env, fds[1])));
  return pair;
}

static napi_value receive_descriptor(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  int32_t fd;
  CHECK(napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
  CHECK(napi_get_value_int32(env, argv[0], &fd));
  char byte;
  struct iovec part = {&byte, 1};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t count;
  do count = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (count < 0 && errno == EINTR);
  if (count < 0) return number(env, -errno);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return number(env, -EBADMSG);
  int received;
  memcpy(&received, CMSG_DATA(header), sizeof received);
  int flags = fcntl(received, F_GETFL);
  if (flags < 0 || fcntl(received, F_SETFL, flags | O_NONBLOCK) != 0) {
    int failed = errno;
    close(received);
    return number(env, -failed);
  }
  return number(env, received);
}

static napi_value init(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      {"watch", NULL, watch_descriptor, NULL, NULL, NULL, napi_enumerable, NULL},
      {"unwatch", NULL, unwatch, NULL, NULL, NULL, napi_enumerable, NULL},
      {"read", NULL, read_descriptor, NULL, NULL, NULL, napi_enumerable, NULL},
      {"write", NULL, write_descriptor, NULL, NULL, NULL, napi_enumerable, NULL},
      {"socketPair", NULL, socket_pair, NULL, NULL, NULL, napi_enumerable, NULL},
      {"receive", NULL, receive_descriptor, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  CHECK(napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions));
  return exports;
}

NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
