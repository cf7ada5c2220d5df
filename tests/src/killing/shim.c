/* Kills its process at the N-th act that changes a gateway's trust, releases or model files.
 *
 * Preloaded into the daemon by the harness, so that the daemon itself needs no hook. Counts the acts of all threads on
 * `state.db` with its log and on everything below `models`; each is named in a file, and at the one that is wanted the
 * process kills itself: before a sync, a rename, a new folder or a removal, in the middle of a write. Writes to the
 * database between two syncs are one act: a transaction counts from its last frame on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const char *folder, *arm;
static long wanted, seen;
static int log_file = -1, is_armed;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static __thread int in_transaction;

#define NEXT(name) \
  static __typeof__(&name) next; \
  if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void prepare(void) {
  const char *at = getenv("KILL_AT"), *log = getenv("KILL_LOG");
  folder = getenv("KILL_IN");
  arm = getenv("KILL_ARMED_BY");
  wanted = at ? atol(at) : 0;
  if (log) log_file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  is_armed = !arm;
}

/* Returns the path below the state folder, or nothing where the file does not count. */
static const char *counted(const char *path) {
  if (!folder || !path) return NULL;
  size_t length = strlen(folder);
  if (strncmp(path, folder, length) != 0 || path[length] != '/') return NULL;
  const char *below = path + length + 1;
  if (strncmp(below, "models", 6) == 0) return below;
  if (strncmp(below, "state.db", 8) == 0 && !strstr(below, "-shm")) return below;
  return NULL;
}

static const char *path_of(int fd, char *buffer) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, buffer, PATH_MAX - 1);
  if (length <= 0) return NULL;
  buffer[length] = 0;
  return buffer;
}

static const char *path_at(int fd, const char *name, char *buffer) {
  if (name[0] == '/' || fd == AT_FDCWD) return name;
  if (!path_of(fd, buffer)) return NULL;
  size_t length = strlen(buffer);
  snprintf(buffer + length, PATH_MAX - length, "/%s", name);
  return buffer;
}

/* Counts an act; tells whether the process is to die at it. */
static int is_last(const char *act, const char *below) {
  pthread_mutex_lock(&gate);
  if (!is_armed) is_armed = access(arm, F_OK) == 0;
  int last = 0;
  if (is_armed) {
    last = ++seen == wanted;
    if (log_file >= 0) dprintf(log_file, "%ld %s %s\n", seen, act, below);
  }
  if (!last) pthread_mutex_unlock(&gate);
  return last;
}

static void die(void) {
  for (;;) kill(getpid(), SIGKILL);
}

static int dies_in_write(int fd) {
  char buffer[PATH_MAX];
  const char *below = counted(path_of(fd, buffer));
  if (!below) return 0;
  if (below[0] == 's') {
    if (in_transaction) return 0;
    in_transaction = 1;
  }
  return is_last("write", below);
}

static void at(const char *act, const char *path) {
  const char *below = counted(path);
  if (!below) return;
  in_transaction = 0;
  if (is_last(act, below)) die();
}

ssize_t write(int fd, const void *bytes, size_t count) {
  NEXT(write);
  if (folder && dies_in_write(fd)) {
    next(fd, bytes, count / 2);
    die();
  }
  return next(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
  NEXT(pwrite64);
  if (folder && dies_in_write(fd)) {
    next(fd, bytes, count / 2, offset);
    die();
  }
  return next(fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
  return pwrite64(fd, bytes, count, offset);
}

int fsync(int fd) {
  NEXT(fsync);
  char buffer[PATH_MAX];
  if (folder) at("sync", path_of(fd, buffer));
  return next(fd);
}

int fdatasync(int fd) {
  NEXT(fdatasync);
  char buffer[PATH_MAX];
  if (folder) at("sync", path_of(fd, buffer));
  return next(fd);
}

int rename(const char *from, const char *to) {
  NEXT(rename);
  at("rename", to);
  return next(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
  NEXT(renameat);
  char buffer[2 * PATH_MAX];
  if (folder) at("rename", path_at(to_fd, to, buffer));
  return next(from_fd, from, to_fd, to);
}

int mkdir(const char *path, mode_t mode) {
  NEXT(mkdir);
  if (access(path, F_OK) != 0) at("mkdir", path);
  return next(path, mode);
}

int mkdirat(int fd, const char *path, mode_t mode) {
  NEXT(mkdirat);
  char buffer[2 * PATH_MAX];
  if (folder && faccessat(fd, path, F_OK, 0) != 0) at("mkdir", path_at(fd, path, buffer));
  return next(fd, path, mode);
}

int unlink(const char *path) {
  NEXT(unlink);
  at("remove", path);
  return next(path);
}

int unlinkat(int fd, const char *path, int flags) {
  NEXT(unlinkat);
  char buffer[2 * PATH_MAX];
  if (folder) at("remove", path_at(fd, path, buffer));
  return next(fd, path, flags);
}
