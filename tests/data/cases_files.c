/* Names, files, descriptors. */
#include "cases.h"
#include <dirent.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <utime.h>

int __open_2(const char *, int), __open64_2(const char *, int), __openat_2(int, const char *, int);
int __openat64_2(int, const char *, int), pivot_root(const char *, const char *);
int eaccess(const char *, int), euidaccess(const char *, int);
ssize_t __readlink_chk(const char *, char *, size_t, size_t), __readlinkat_chk(int, const char *, char *, size_t, size_t);
char *__getcwd_chk(char *, size_t, size_t);

enum { HERE = AT_FDCWD };
#define LINKED ((char *)room(40, 4))
/* A descriptor that is not needed. */
#define OPENED(name, ...) (begin(#name), result = (long)(__VA_ARGS__), close(finish(#name, result, (int)result == -1, errno)))

static void names(void)
{
    OPENED(open, open(NAME("file"), O_RDWR)), OPENED(open64, open64(NAME("file"), O_RDWR));
    OPENED(__open_2, __open_2(NAME("file"), 0)), OPENED(__open64_2, __open64_2(NAME("file"), 0));
    OPENED(openat, openat(HERE, NAME("file"), 0)), OPENED(openat64, openat64(HERE, NAME("file"), 0));
    OPENED(__openat_2, __openat_2(HERE, NAME("file"), 0)), OPENED(__openat64_2, __openat64_2(HERE, NAME("file"), 0));
    OPENED(SYS_open, syscall(SYS_open, NAME("file"), 0)), OPENED(SYS_openat, syscall(SYS_openat, HERE, NAME("file"), 0));
    OPENED(SYS_openat2, syscall(SYS_openat2, HERE, NAME("file"), in((uint64_t[3]){0}, 24), 24L));
    OPENED(creat, creat(NAME("new"), 0600)), OPENED(creat64, creat64(NAME("new"), 0600));
    OPENED(SYS_creat, syscall(SYS_creat, NAME("new"), 0600));
    BOTH(access, NAME("file"), R_OK), BOTH(faccessat, HERE, NAME("file"), R_OK, 0);
    CASE(SYS_faccessat2, syscall(SYS_faccessat2, HERE, NAME("file"), R_OK, 0));
    CASE(eaccess, eaccess(NAME("file"), R_OK)), CASE(euidaccess, euidaccess(NAME("file"), R_OK));
    CASE(pathconf, pathconf(NAME("file"), _PC_NAME_MAX));
    CASE(mkdir, mkdir(NAME("d"), 0700)), CASE(rmdir, rmdir(NAME("d")));
    CASE(SYS_mkdir, syscall(SYS_mkdir, NAME("d"), 0700)), CASE(SYS_rmdir, syscall(SYS_rmdir, NAME("d")));
    CASE(mkdirat, mkdirat(HERE, NAME("d"), 0700)), CASE(unlinkat, unlinkat(HERE, NAME("d"), AT_REMOVEDIR));
    CASE(SYS_mkdirat, syscall(SYS_mkdirat, HERE, NAME("d"), 0700));
    CASE(SYS_unlinkat, syscall(SYS_unlinkat, HERE, NAME("d"), AT_REMOVEDIR));
    CASE(link, link(NAME("file"), NAME("a"))), CASE(unlink, unlink(NAME("a")));
    CASE(SYS_link, syscall(SYS_link, NAME("file"), NAME("a"))), CASE(SYS_unlink, syscall(SYS_unlink, NAME("a")));
    CASE(linkat, linkat(HERE, NAME("file"), HERE, NAME("a"), 0)), CASE(remove, remove(NAME("a")));
    CASE(SYS_linkat, syscall(SYS_linkat, HERE, NAME("file"), HERE, NAME("a"), 0));
    CASE(rename, rename(NAME("a"), NAME("b"))), CASE(SYS_rename, syscall(SYS_rename, NAME("b"), NAME("c")));
    CASE(renameat, renameat(HERE, NAME("c"), HERE, NAME("b"))), CASE(renameat2, renameat2(HERE, NAME("b"), HERE, NAME("c"), 0));
    CASE(SYS_renameat, syscall(SYS_renameat, HERE, NAME("c"), HERE, NAME("b")));
    CASE(SYS_renameat2, syscall(SYS_renameat2, HERE, NAME("b"), HERE, NAME("new"), 0));
    CASE(symlink, symlink(NAME("file"), NAME("s"))), CASE(SYS_symlink, syscall(SYS_symlink, NAME("file"), NAME("s2")));
    CASE(symlinkat, symlinkat(NAME("file"), HERE, NAME("s3")));
    CASE(SYS_symlinkat, syscall(SYS_symlinkat, NAME("file"), HERE, NAME("s4")));
    BOTH(readlink, NAME("s"), LINKED, 40), CASE(__readlink_chk, __readlink_chk(NAME("s"), LINKED, 40, 40));
    BOTH(readlinkat, HERE, NAME("s"), LINKED, 40);
    CASE(__readlinkat_chk, __readlinkat_chk(HERE, NAME("s"), LINKED, 40, 40));
    BOTH(chmod, NAME("file"), 0640), BOTH(fchmodat, HERE, NAME("file"), 0600, 0);
    BOTH(chown, NAME("file"), -1, -1), BOTH(lchown, NAME("s"), -1, -1), BOTH(fchownat, HERE, NAME("file"), -1, -1, 0);
    BOTH(truncate, NAME("file"), 13), CASE(truncate64, truncate64(NAME("file"), 13));
    CASE(mknod, mknod(NAME("n1"), S_IFREG | 0600, 0)), CASE(SYS_mknod, syscall(SYS_mknod, NAME("n2"), S_IFREG | 0600, 0));
    CASE(mknodat, mknodat(HERE, NAME("n3"), S_IFREG | 0600, 0));
    CASE(SYS_mknodat, syscall(SYS_mknodat, HERE, NAME("n4"), S_IFREG | 0600, 0));
    CASE(mkfifo, mkfifo(NAME("f1"), 0600)), CASE(mkfifoat, mkfifoat(HERE, NAME("f2"), 0600));
    BOTH(chdir, NAME(".")), BOTH(chroot, NAME("none"));
    BOTH(mount, NAME("none"), NAME("none"), NAME("tmpfs"), 0, NAME("size=1")), CASE(umount, umount(NAME("none")));
    BOTH(umount2, NAME("none"), 0), BOTH(swapon, NAME("none"), 0), BOTH(swapoff, NAME("none")), BOTH(acct, NAME("none"));
    BOTH(pivot_root, NAME("none"), NAME("none"));
    OPENED(memfd_create, memfd_create(NAME("memory"), 0)), OPENED(SYS_memfd_create, syscall(SYS_memfd_create, NAME("memory"), 0));
    int watch = inotify_init(), group = fanotify_init(FAN_CLASS_NOTIF, 0);
    BOTH(inotify_add_watch, watch, NAME("file"), IN_MODIFY);
    BOTH(fanotify_mark, group, FAN_MARK_ADD, (uint64_t)FAN_MODIFY, HERE, NAME("file"));
    FILE *stream = (FILE *)ADDRESS(fopen, fopen(NAME("file"), "r"));
    ADDRESS(freopen, freopen(NAME("file"), "r", stream)), ADDRESS(freopen64, freopen64(NAME("file"), "r", stream));
    fclose(stream), fclose((FILE *)ADDRESS(fopen64, fopen64(NAME("file"), "r")));
    closedir((DIR *)ADDRESS(opendir, opendir(NAME("."))));
    char seen[8] = "";
    stream = (FILE *)ADDRESS(popen, popen(NAME("echo seen"), "r"));
    printf("%s", fgets(seen, sizeof seen, stream)), printf("%d\n", pclose(stream));
    OPENED(mkstemp, mkstemp(NAME("tXXXXXX"))), OPENED(mkstemp64, mkstemp64(NAME("tXXXXXX")));
    OPENED(mkostemp, mkostemp(NAME("tXXXXXX"), 0)), OPENED(mkostemp64, mkostemp64(NAME("tXXXXXX"), 0));
    OPENED(mkstemps, mkstemps(NAME("tXXXXXX.c"), 2)), OPENED(mkstemps64, mkstemps64(NAME("tXXXXXX.c"), 2));
    OPENED(mkostemps, mkostemps(NAME("tXXXXXX.c"), 2, 0)), OPENED(mkostemps64, mkostemps64(NAME("tXXXXXX.c"), 2, 0));
    char *made = (char *)ADDRESS(mkdtemp, mkdtemp(NAME("tXXXXXX")));
    printf("%td %d\n", made - device, access(made, F_OK));
    char folder[PAGE];
    size_t length = strlen(getcwd(folder, PAGE)) + 1;
    ADDRESS(getcwd, getcwd(room(1024, length), 1024)), printf("%td\n", (char *)result - device);
    ADDRESS(__getcwd_chk, __getcwd_chk(room(1024, length), 1024, 1024)), printf("%d\n", strcmp((char *)result, folder));
    CASE(SYS_getcwd, syscall(SYS_getcwd, room(1024, length), 1024L));
    struct file_handle *handle = NULL;
    int mount_id, here = open(".", O_RDONLY | O_DIRECTORY);
    struct { unsigned room, type; char rest[120]; } known = {120, 0, ""};
    name_to_handle_at(HERE, "file", (void *)&known, &mount_id, 0);
    unsigned handled = known.room + 8, type = known.type;
#define HANDLE (handle = in_out(&(struct file_handle){known.room, type}, handled))
    BOTH(name_to_handle_at, HERE, NAME("file"), HANDLE, OUT(int), 0);
    OPENED(open_by_handle_at, open_by_handle_at(here, in(&known, handled), O_RDONLY));
    OPENED(SYS_open_by_handle_at, syscall(SYS_open_by_handle_at, here, in(&known, handled), O_RDONLY));
}

static void contents(void)
{
    int file = open("file", O_RDWR), copy = open("copy", O_RDWR | O_CREAT | O_TRUNC, 0600), ends[2];
    BOTH(stat, NAME("file"), OUT(struct stat)), CASE(stat64, stat64(NAME("file"), OUT(struct stat64)));
    BOTH(lstat, NAME("file"), OUT(struct stat)), CASE(lstat64, lstat64(NAME("file"), OUT(struct stat64)));
    BOTH(fstat, file, OUT(struct stat)), CASE(fstat64, fstat64(file, OUT(struct stat64)));
    CASE(fstatat, fstatat(HERE, NAME("file"), OUT(struct stat), 0));
    CASE(fstatat64, fstatat64(HERE, NAME("file"), OUT(struct stat64), 0));
    CASE(SYS_newfstatat, syscall(SYS_newfstatat, HERE, NAME("file"), OUT(struct stat), 0));
    BOTH(statx, HERE, NAME("file"), 0, STATX_SIZE, OUT(struct statx));
    BOTH(statfs, NAME("."), OUT(struct statfs)), CASE(statfs64, statfs64(NAME("."), OUT(struct statfs64)));
    BOTH(fstatfs, file, OUT(struct statfs)), CASE(fstatfs64, fstatfs64(file, OUT(struct statfs64)));
    CASE(statvfs, statvfs(NAME("."), PUT(struct statvfs))), CASE(statvfs64, statvfs64(NAME("."), PUT(struct statvfs64)));
    struct timespec times[2] = {{1, 2}, {3, 4}};
    struct timeval values[2] = {{1, 2}, {3, 4}};
    BOTH(utimensat, HERE, NAME("file"), in(times, 32), 0), CASE(futimens, futimens(file, in(times, 32)));
    BOTH(utimes, NAME("file"), in(values, 32)), CASE(lutimes, lutimes(NAME("file"), in(values, 32)));
    BOTH(futimesat, HERE, NAME("file"), in(values, 32)), CASE(futimes, futimes(file, in(values, 32)));
    BOTH(utime, NAME("file"), IN(struct utimbuf, 5, 6));
#define KEY NAME("user.key")
    BOTH(setxattr, NAME("file"), KEY, TEXT("worth"), 5, 0), BOTH(lsetxattr, NAME("file"), KEY, TEXT("worth"), 5, 0);
    BOTH(fsetxattr, file, KEY, TEXT("worth"), 5, 0);
    BOTH(getxattr, NAME("file"), KEY, room(30, 5), 30), BOTH(lgetxattr, NAME("file"), KEY, room(30, 5), 30);
    BOTH(fgetxattr, file, KEY, room(30, 5), 30);
    BOTH(listxattr, NAME("file"), room(30, 9), 30), BOTH(llistxattr, NAME("file"), room(30, 9), 30);
    BOTH(flistxattr, file, room(30, 9), 30), CASE(removexattr, removexattr(NAME("file"), KEY));
    fsetxattr(file, "user.key", "a", 1, 0), CASE(SYS_removexattr, syscall(SYS_removexattr, NAME("file"), KEY));
    fsetxattr(file, "user.key", "a", 1, 0), CASE(lremovexattr, lremovexattr(NAME("file"), KEY));
    fsetxattr(file, "user.key", "a", 1, 0), CASE(SYS_lremovexattr, syscall(SYS_lremovexattr, NAME("file"), KEY));
    fsetxattr(file, "user.key", "a", 1, 0), CASE(fremovexattr, fremovexattr(file, KEY));
    fsetxattr(file, "user.key", "a", 1, 0), CASE(SYS_fremovexattr, syscall(SYS_fremovexattr, file, KEY));
    BOTH(sendfile, copy, file, IN_OUT(off_t, 1), 4), CASE(sendfile64, sendfile64(copy, file, IN_OUT(off_t, 1), 4));
    BOTH(copy_file_range, file, IN_OUT(off_t, 1), copy, IN_OUT(off_t, 2), 3, 0);
    if (pipe(ends))
        abort();
    BOTH(splice, file, IN_OUT(off_t, 1), ends[1], NULL, 3, 0);
    struct iovec list = {device + 2048, 8};
    BOTH(vmsplice, ends[1], (expect("read", device + 2048, 8), IN(struct iovec, device + 2048, 8)), 1, 0);
    CASE(vmsplice, vmsplice(ends[0], (expect("write", device + 2048, 8), &list), 1, 0));
    printf("%.6s\n", device + 2048);
    BOTH(mincore, device, 2 * PAGE, room(2, 2));
    int folder = open(".", O_RDONLY | O_DIRECTORY);
    char entries[2048];
    size_t listed = getdents64(folder, entries, sizeof entries);
    lseek(folder, 0, SEEK_SET), CASE(getdents64, getdents64(folder, room(2048, listed), 2048));
    lseek(folder, 0, SEEK_SET), CASE(SYS_getdents64, syscall(SYS_getdents64, folder, room(2048, listed), 2048L));
#define LOCK IN(struct flock, F_WRLCK, SEEK_SET, 0, 5)
    CASE(fcntl, fcntl(file, F_SETLK, LOCK)), CASE(fcntl64, fcntl64(file, F_SETLK, LOCK));
    CASE(SYS_fcntl, syscall(SYS_fcntl, file, F_SETLKW, LOCK));
    CASE(fcntl, fcntl(file, F_GETLK, IN_OUT(struct flock, F_WRLCK, SEEK_SET, 0, 5)));
    CASE(fcntl, fcntl(file, F_SETOWN_EX, IN(struct f_owner_ex, F_OWNER_PID, getpid())));
    CASE(fcntl, fcntl(file, F_GETOWN_EX, OUT(struct f_owner_ex)));
    CASE(fcntl, fcntl(file, F_GETFL));
    /* In a region in part: its last byte is ordinary memory, or its first one, or none. */
    char *edge = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + PAGE;
    char *there = mmap(edge, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, open("/proc/self/fd/3", O_RDWR), 0);
    memset(there - 200, 0x11, PAGE + 400);
    printf("%d %lx\n", fstat(file, (void *)(there - 100)), ((struct stat *)(there - 100))->st_size);
    printf("%d %lx\n", fstat(file, (void *)(there + PAGE - 100)), ((struct stat *)(there + PAGE - 100))->st_size);
    memcpy(there + PAGE - 10, times, 32);
    printf("%d %x %x %x\n", futimens(file, (void *)(there + PAGE - 10)), there[-101], there[44], there[PAGE + 44]);
    fstat(file, (void *)edge), printf("%ld %ld\n", ((struct stat *)edge)->st_atim.tv_sec, ((struct stat *)edge)->st_mtim.tv_nsec);
}

static void cases(void)
{
    names(), contents();
}
