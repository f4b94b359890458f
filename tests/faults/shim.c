/* A PKCS#11 module in front of another one, for tests: it counts calls and misbehaves on demand.
 *
 * KEYD_SHIM_MODULE names the module behind, KEYD_SHIM_DIR a directory. Every call of NAME appends one
 * byte to DIR/NAME.calls, so the file's size is the count. DIR/NAME.do, if it exists, says what the
 * next call does instead, as one line:
 *
 *   rv CODE early|late   return CODE (hexadecimal), before or after the module did its work
 *   flip | zero          change the first byte, or every byte, of what C_Sign returned
 *   short | long         tell a wrong length of it
 *   foreign              return the signature before it instead
 *   truncate             tell half the length of every value C_GetAttributeValue returned
 *   delay MS             take so much longer
 *   toil MS              take so much longer to make a signature, but not to tell its length
 *   logout               log out on the session of the first argument, then work
 *   hang | abort | exit | segfault | print
 *
 * and is removed by the call that obeys it. DIR/NAME.do2 and DIR/NAME.do3 are for the calls after it;
 * DIR/NAME.always is obeyed every time. DIR/NAME.max bounds the sessions open at once. DIR/flags holds
 * CK_TOKEN_INFO flags to add (hexadecimal). With KEYD_SHIM_FRESH set, each C_GetFunctionList returns
 * another list.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ul;
/* Every argument of every Cryptoki function travels as a machine word. */
typedef ul (*function)(ul, ul, ul, ul, ul, ul, ul, ul);

enum { ENTRIES = 69 };
static void *table[ENTRIES];
static function real[ENTRIES];
static int open_sessions;

static FILE *control(const char *name, const char *kind, char *path, size_t size) {
    snprintf(path, size, "%s/%s.%s", getenv("KEYD_SHIM_DIR"), name, kind);
    return fopen(path, "r");
}

static void count(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.calls", getenv("KEYD_SHIM_DIR"), name);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0 && write(file, "x", 1) == 1)
        close(file);
}

/* Whether an order concerns what the module returns, which asking for a length does not return. */
static int alters(const char *line) {
    return strchr("fzst", line[0]) ? strncmp(line, "segfault", 8) : !strncmp(line, "long", 4);
}

static int order(const char *name, char *line, int size, int returns) {
    static const char *kinds[] = {"do", "do2", "do3", "always"};
    char path[4096];
    for (int i = 0; i < 4; i++) {
        FILE *file = control(name, kinds[i], path, sizeof path);
        if (!file)
            continue;
        int found = fgets(line, size, file) != NULL;
        fclose(file);
        if (!found || (alters(line) && !returns))
            return 0;
        if (i == 3 || unlink(path) == 0)
            return 1; /* otherwise another thread obeyed it */
    }
    return 0;
}

static void misbehave(const char *line) {
    if (!strncmp(line, "hang", 4))
        for (;;)
            sleep(3600);
    if (!strncmp(line, "abort", 5))
        abort();
    if (!strncmp(line, "exit", 4))
        exit(3);
    if (!strncmp(line, "segfault", 8))
        raise(SIGSEGV);
    if (!strncmp(line, "delay", 5))
        usleep(1000 * (useconds_t)atoi(line + 5));
    if (!strncmp(line, "toil", 4))
        usleep(1000 * (useconds_t)atoi(line + 4));
    if (!strncmp(line, "print", 5)) {
        printf("chatter on stdout\n");
        fflush(stdout);
        fprintf(stderr, "chatter on stderr\n");
    }
}

static int sessions_full(void) {
    char path[4096];
    int max = 0;
    FILE *file = control("C_OpenSession", "max", path, sizeof path);
    if (!file)
        return 0;
    int known = fscanf(file, "%d", &max) == 1;
    fclose(file);
    return known && __atomic_load_n(&open_sessions, __ATOMIC_SEQ_CST) >= max;
}

static void add_flags(ul info) {
    char path[4096];
    ul flags = 0;
    snprintf(path, sizeof path, "%s/flags", getenv("KEYD_SHIM_DIR"));
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    if (fscanf(file, "%lx", &flags) == 1)
        *(ul *)(info + 96) |= flags; /* CK_TOKEN_INFO.flags follows four texts of 96 bytes */
    fclose(file);
}

/* Change a signature, at most 512 bytes, as ordered; remember it for `foreign`. */
static void spoil(const char *line, unsigned char *signature, ul *length) {
    static unsigned char before[512];
    unsigned char made[512];
    if (*length > sizeof made)
        return;
    memcpy(made, signature, *length);
    if (!strncmp(line, "flip", 4))
        signature[0] ^= 1;
    if (!strncmp(line, "zero", 4))
        memset(signature, 0, *length);
    if (!strncmp(line, "foreign", 7))
        memcpy(signature, before, *length);
    memcpy(before, made, *length);
    if (!strncmp(line, "short", 5))
        *length -= 1;
    if (!strncmp(line, "long", 4))
        *length += 1;
}

static void truncate_values(ul template, ul count) {
    ul *attribute = (ul *)template; /* CK_ATTRIBUTE: type, value, length */
    for (ul i = 0; i < count; i++, attribute += 3)
        if (attribute[1] && attribute[2] != (ul)-1)
            attribute[2] /= 2;
}

static ul pass(int entry, const char *name, ul a, ul b, ul c, ul d, ul e, ul f, ul g, ul h) {
    char line[128] = "", when[16] = "";
    ul code = 0;
    count(name);
    int signs = !strcmp(name, "C_Sign") && d;
    int reads = !strcmp(name, "C_GetAttributeValue") && d && ((ul *)c)[1];
    int ordered = order(name, line, sizeof line, signs || reads);
    int fails = ordered && sscanf(line, "rv %lx %15s", &code, when) == 2;
    if (ordered)
        misbehave(line);
    if (!strncmp(line, "logout", 6))
        real[20](a, 0, 0, 0, 0, 0, 0, 0); /* C_Logout */
    if (fails && !strcmp(when, "early"))
        return code;
    if (!strcmp(name, "C_OpenSession") && sessions_full()) {
        count("CKR_SESSION_COUNT");
        return 0xB1;
    }
    ul rv = real[entry](a, b, c, d, e, f, g, h);
    if (rv == 0 && !strcmp(name, "C_OpenSession"))
        __atomic_add_fetch(&open_sessions, 1, __ATOMIC_SEQ_CST);
    if (rv == 0 && !strcmp(name, "C_CloseSession"))
        __atomic_sub_fetch(&open_sessions, 1, __ATOMIC_SEQ_CST);
    if (rv == 0 && !strcmp(name, "C_GetTokenInfo"))
        add_flags(b);
    if (rv == 0 && signs)
        spoil(line, (unsigned char *)d, (ul *)e);
    if (rv == 0 && reads && !strncmp(line, "truncate", 8))
        truncate_values(c, d);
    return fails ? code : rv;
}

#define SHIM(entry, name)                                                                          \
    static ul name(ul a, ul b, ul c, ul d, ul e, ul f, ul g, ul h) {                               \
        return pass(entry, #name, a, b, c, d, e, f, g, h);                                         \
    }
SHIM(1, C_Initialize)
SHIM(2, C_Finalize)
SHIM(5, C_GetSlotList)
SHIM(7, C_GetTokenInfo)
SHIM(13, C_OpenSession)
SHIM(14, C_CloseSession)
SHIM(19, C_Login)
SHIM(25, C_GetAttributeValue)
SHIM(27, C_FindObjectsInit)
SHIM(28, C_FindObjects)
SHIM(43, C_SignInit)
SHIM(44, C_Sign)
SHIM(60, C_GenerateKeyPair)

ul C_GetFunctionList(void **list) {
    void **behind = NULL;
    if (!table[1]) {
        void *module = dlopen(getenv("KEYD_SHIM_MODULE"), RTLD_NOW);
        ul (*get)(void **) = module ? (ul(*)(void **))dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get((void **)&behind))
            return 5; /* CKR_GENERAL_ERROR */
        memcpy(table, behind, sizeof table);
        memcpy(real, behind, sizeof real);
        table[1] = (void *)C_Initialize;
        table[2] = (void *)C_Finalize;
        table[5] = (void *)C_GetSlotList;
        table[7] = (void *)C_GetTokenInfo;
        table[13] = (void *)C_OpenSession;
        table[14] = (void *)C_CloseSession;
        table[19] = (void *)C_Login;
        table[25] = (void *)C_GetAttributeValue;
        table[27] = (void *)C_FindObjectsInit;
        table[28] = (void *)C_FindObjects;
        table[43] = (void *)C_SignInit;
        table[44] = (void *)C_Sign;
        table[60] = (void *)C_GenerateKeyPair;
    }
    *list = table;
    if (getenv("KEYD_SHIM_FRESH")) { /* like p11-kit: another table at each call */
        *list = malloc(sizeof table);
        memcpy(*list, table, sizeof table);
    }
    return 0;
}
