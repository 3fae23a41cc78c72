// The bare system calls of a sandbox's life, as the measure of what a library can reach on this kernel.
//
//     bare COUNT GROUP...    prints how many nanoseconds COUNT lives took; a GROUP is a folder of control groups
//
// One life: control groups with limits, all namespaces, a root in memory with an overlay on it, /proc, devices, ids,
// capabilities, a system call filter, /bin/true as a child of process 1, and the end of everything. No waiting for a
// supervisor, no errors that anybody could read, no proof.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_ID = 0x70000000, JOB = 1000, RULES = 64 };

#define TRY(call) \
    do { \
        if ((call) < 0) { \
            fprintf(stderr, "%s: %s\n", #call, strerror(errno)); \
            _exit(1); \
        } \
    } while (0)

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_CLOEXEC);
    TRY(file);
    TRY(write(file, text, strlen(text)));
    close(file);
}

// A filter as deep as a balanced tree over the ranges of a policy is: the kernel tries it with every call once.
static void load_filter(void) {
    struct sock_filter code[RULES * 2 + 2];
    int length = 0;
    code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    // Six comparisons for each number, as for 64 ranges.
    for (int depth = 0; depth < 6; depth++) {
        code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 1000 + depth, 0, 0);
    }
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = length, .filter = code};
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    TRY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void build_root(void) {
    static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
    static const char *const covered[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"};
    static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    char path[64];
    TRY(mount("", "/", "", MS_REC | MS_PRIVATE, 0));
    TRY(mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,nr_inodes=100000,mode=755"));
    TRY(chdir("/tmp"));
    static const char *const folders[] = {"usr", "upper", "inner", "proc", "dev", "dev/pts", "dev/shm", "tmp", "work", "home", "run", "etc", "var"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) TRY(mkdir(folders[i], 0755));
    TRY(symlink("usr/bin", "bin"));
    TRY(symlink("usr/lib", "lib"));
    TRY(symlink("usr/lib64", "lib64"));
    TRY(mount("overlay", "usr", "overlay", MS_NOSUID | MS_NODEV, "lowerdir=/usr,upperdir=upper,workdir=inner,userxattr"));
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        char source[64];
        snprintf(source, sizeof source, "/dev/%s", devices[i]);
        snprintf(path, sizeof path, "dev/%s", devices[i]);
        close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
        TRY(mount(source, path, 0, MS_BIND, 0));
    }
    TRY(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666"));
    TRY(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
    TRY(syscall(SYS_pivot_root, ".", "."));
    for (size_t i = 0; i < sizeof covered / sizeof *covered; i++) mount("/dev/null", covered[i], 0, MS_BIND, 0);
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
        if (mount(read_only[i], read_only[i], 0, MS_BIND, 0) == 0) {
            TRY(mount(0, read_only[i], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
        }
    }
    TRY(umount2(".", MNT_DETACH));
    TRY(chdir("/"));
}

static void become(uid_t id) {
    TRY(setgroups(0, 0));
    TRY(setresgid(id, id, id));
    TRY(setresuid(id, id, id));
}

static int process_one(int go) {
    char byte;
    if (read(go, &byte, 1) != 1) _exit(1);
    become(0);
    TRY(unshare(CLONE_NEWCGROUP));
    build_root();
    TRY(sethostname("sandbox", 7));
    struct ifreq interface = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int handle = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    TRY(ioctl(handle, SIOCSIFFLAGS, &interface));
    close(handle);
    load_filter();
    pid_t job = fork();
    TRY(job);
    if (job == 0) {
        become(JOB);
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {0};
        TRY(syscall(SYS_capset, &header, none));
        execl("/bin/true", "true", (char *)0);
        _exit(127);
    }
    int status;
    TRY(waitpid(job, &status, 0));
    return WEXITSTATUS(status);
}

static void one_life(char **groups, int count, int number) {
    char path[512], text[64];
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/bare-%d", groups[i], number);
        TRY(mkdir(path, 0755));
        static const char *const limits[][2] = {
            {"memory.limit_in_bytes", "4294967296"}, {"pids.max", "2049"}, {"cpu.cfs_quota_us", "200000"}};
        for (size_t limit = 0; limit < 3; limit++) {
            snprintf(path, sizeof path, "%s/bare-%d/%s", groups[i], number, limits[limit][0]);
            if (access(path, F_OK) == 0) put(path, limits[limit][1]);
        }
    }
    int pipes[2], pidfd = -1;
    TRY(pipe2(pipes, O_CLOEXEC));
    struct clone_args arguments = {
        .flags = CLONE_PIDFD | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET,
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    TRY(pid);
    if (pid == 0) _exit(process_one(pipes[0]));
    snprintf(text, sizeof text, "0 %d 65536", FIRST_ID);
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    put(path, text);
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    put(path, text);
    snprintf(text, sizeof text, "%d", pid);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/bare-%d/cgroup.procs", groups[i], number);
        put(path, text);
    }
    TRY(write(pipes[1], "", 1));
    int status;
    TRY(waitpid(pid, &status, 0));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "a life ended with status %d\n", status);
        exit(1);
    }
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/bare-%d", groups[i], number);
        TRY(rmdir(path));
    }
    close(pipes[0]);
    close(pipes[1]);
    close(pidfd);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    int lives = atoi(arguments[1]);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int life = 0; life < lives; life++) one_life(arguments + 2, count - 2, getpid() * 1000 + life % 1000);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec));
    return 0;
}
