/* A PKCS#11 module that, when loaded, tries what no such module has any business to do.
 *
 * KEYD_TRESPASS_TO names the file that is told how each attempt ended, a line "NAME ERRNO" for each
 * (0: it worked); KEYD_SHIM_MODULE names the module that then does the work. Every attempt is harmless
 * where it succeeds, and fails otherwise than by EPERM where nothing filters it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long ul;
static FILE *report;

static void told(const char *name, long result) {
    fprintf(report, "%s %d\n", name, result == -1 ? errno : 0);
}
#define TRY(name, call) (errno = 0, told(name, (long)(call)))

static void *in_thread(void *argument) { return argument; }

static long new_thread(void) {
    pthread_t thread;
    errno = pthread_create(&thread, NULL, in_thread, NULL);
    return errno ? -1 : pthread_join(thread, NULL);
}

static long new_process(void) {
    long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(0);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    return child;
}

static long dumpable_again(void) {
    long result = prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    if (result == 0)
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return result;
}

static long reads_memory(void) {
    char from = 1, to = 0;
    struct iovec ours = {&to, 1}, theirs = {&from, 1};
    return process_vm_readv(getpid(), &ours, 1, &theirs, 1, 0);
}

static long opens(int family, int type) {
    int file = socket(family, type, 0);
    if (file >= 0)
        close(file);
    return file;
}

static void trespass(void) {
    char *const nothing[] = {NULL};
    struct rlimit none = {0, 0};
    void *nowhere = (void *)1;
    pid_t parent = getppid();
    TRY("execve", execve("/nonexistent", nothing, nothing));
    TRY("execveat", syscall(SYS_execveat, AT_FDCWD, "/nonexistent", nothing, nothing, 0));
    TRY("new process", new_process());
    TRY("clone3", syscall(SYS_clone3, NULL, 0));
    TRY("ptrace", ptrace(PTRACE_PEEKUSER, parent, NULL, NULL));
    TRY("process_vm_readv", reads_memory());
    TRY("pidfd_open", syscall(SYS_pidfd_open, parent, 0));
    TRY("kill", kill(parent, 0));
    TRY("tgkill", syscall(SYS_tgkill, parent, parent, 0));
    TRY("limits of others", syscall(SYS_prlimit64, parent, RLIMIT_CORE, NULL, NULL));
    TRY("core dumps", setrlimit(RLIMIT_CORE, &none));
    TRY("dumpable", dumpable_again());
    TRY("setuid", syscall(SYS_setuid, getuid()));
    TRY("unshare", syscall(SYS_unshare, 0));
    TRY("setns", syscall(SYS_setns, -1, 0));
    TRY("mount", syscall(SYS_mount, NULL, nowhere, nowhere, 0, NULL));
    TRY("chroot", chroot("/nonexistent"));
    TRY("personality", syscall(SYS_personality, 0xffffffff));
    TRY("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0xffff));
    TRY("io_uring_setup", syscall(SYS_io_uring_setup, 0, NULL));
    TRY("add_key", syscall(SYS_add_key, NULL, NULL, NULL, 0, 0));
    TRY("keyctl", syscall(SYS_keyctl, 9999, 0, 0, 0, 0));
    TRY("bpf", syscall(SYS_bpf, 9999, NULL, 0));
    TRY("init_module", syscall(SYS_init_module, NULL, 0, NULL));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 9999));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, NULL, 0));
    TRY("a call of tomorrow", syscall(500, 0, 0, 0, 0));
    TRY("unix", opens(AF_UNIX, SOCK_STREAM));
    TRY("inet", opens(AF_INET, SOCK_STREAM));
    TRY("inet6", opens(AF_INET6, SOCK_STREAM));
    TRY("netlink", opens(AF_NETLINK, SOCK_RAW));
    TRY("packet", opens(AF_PACKET, SOCK_RAW));
    TRY("thread", new_thread());
    TRY("kill itself", kill(getpid(), 0));
    TRY("own limits", getrlimit(RLIMIT_CORE, &none));
}

ul C_GetFunctionList(void **list) {
    static int done;
    if (!done) {
        done = 1;
        report = fopen(getenv("KEYD_TRESPASS_TO"), "w");
        if (report) {
            trespass();
            fclose(report);
        }
    }
    void *module = dlopen(getenv("KEYD_SHIM_MODULE"), RTLD_NOW);
    ul (*get)(void **) = module ? (ul(*)(void **))dlsym(module, "C_GetFunctionList") : NULL;
    return get ? get(list) : 5; /* CKR_GENERAL_ERROR */
}
