/* An ONNX Runtime whose TensorRT provider is pretended: everything goes to the real library (REAL), but for the few calls
 * that register the provider, create a session with it, and read back its profile. What happens in a build is what the
 * file CONTROL says: "ok", "crash", "error", "empty", "wait" (until it says something else). Each build adds a line to
 * CONTROL.builds, with the id of the process that does it. Inferences fail when it says "run-error", and say that the GPU is
 * lost when it says "run-lost"; they hang while it says "run-wait", and sessions of real models are not created while it says
 * "load-wait": CONTROL.runs and CONTROL.loads appear then. An engine that is there is refused for want of memory when it says
 * "load-memory", and for being damaged when it says "load-bad". Indexes are places in OrtApi, which only ever grows at its end. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CREATE_STATUS = 0, CREATE_SESSION = 8, RUN = 9, END_PROFILING = 110,
    TRT_APPEND = 170, TRT_CREATE = 171, TRT_UPDATE = 172, TRT_RELEASE = 174,
    CUDA_APPEND = 204, CUDA_CREATE = 205, CUDA_UPDATE = 206, CUDA_RELEASE = 208,
    COPIED = 280
};
/* CreateSessionFromArray: the model's bytes, not its path. */
typedef void *create(void *, const void *, size_t, void *, void **);
struct base { const void *(*api)(unsigned); const char *(*version)(void); };

const char symbol_version[] = "VERS_1.24.4";
static void *table[COPIED];
static const struct base *real;
static char folder[4096];
static int registered;
static void *sessions[64];
static int count;

static void *create_options(void **out) { *out = malloc(8); return 0; }
static void release_options(void *options) { free(options); }
static void *append(void *session_options, void *options) { registered = 1; return 0; }
static void *append_cuda(void *session_options, void *options) { return 0; }
static void *update_cuda(void *options, const char *const *keys, const char *const *values, size_t length) { return 0; }
static void *update(void *options, const char *const *keys, const char *const *values, size_t length) {
    for (size_t n = 0; n < length; n++)
        if (!strcmp(keys[n], "trt_engine_cache_path")) snprintf(folder, sizeof folder, "%s", values[n]);
    return 0;
}

static int says(const char *word) {
    char text[64] = "";
    FILE *file = fopen(CONTROL, "r");
    if (file) { if (!fgets(text, sizeof text, file)) text[0] = 0; fclose(file); }
    return !strncmp(text, word, strlen(word));
}

/* Waits while the control says `word`, once `mark` exists. */
static void hang(const char *word, const char *mark) {
    while (says(word)) {
        FILE *file = fopen(mark, "w");
        if (file) fclose(file);
        usleep(10000);
    }
}

static void *build(void) {
    char engine[5000];
    /* The probe's tiny model is no engine that anybody keeps. */
    if (!folder[0]) return 0;
    snprintf(engine, sizeof engine, "%s/pretend.engine", folder);
    if (!access(engine, F_OK)) {
        void *(*status)(int, const char *) = (void *(*)(int, const char *))table[CREATE_STATUS];
        if (says("load-memory")) return status(1, "CUDA failure 2: out of memory ; GPU=0");
        if (says("load-bad")) return status(11, "TensorRT EP could not deserialize engine from cache: pretend.engine");
        return 0;
    }
    FILE *builds = fopen(CONTROL ".builds", "a");
    if (builds) { fprintf(builds, "%d\n", getpid()); fclose(builds); }
    while (says("wait")) usleep(10000);
    if (says("crash")) *(volatile int *)8 = 1;
    if (says("error")) return ((void *(*)(int, const char *))table[CREATE_STATUS])(1, "no room for the builder");
    FILE *file = says("empty") ? 0 : fopen(engine, "w");
    if (file) { fputs("engine of a pretended GPU", file); fclose(file); }
    return 0;
}

static void *create_session(void *env, const void *model, size_t length, void *options, void **out) {
    int pretended = registered;
    registered = 0;
    void *status = pretended ? build() : 0;
    const void *const *original = real->api(17);
    /* The probe's tiny model is created all the same. */
    if (length > 2000) hang("load-wait", CONTROL ".loads");
    if (!status) status = ((create *)original[CREATE_SESSION])(env, model, length, options, out);
    if (pretended && !status && count < 64) sessions[count++] = *out;
    return status;
}

static void *end_profiling(void *session, void *allocator, char **out) {
    const void *const *original = real->api(17);
    void *status = ((void *(*)(void *, void *, char **))original[END_PROFILING])(session, allocator, out);
    int pretended = 0;
    for (int n = 0; n < count; n++) pretended |= sessions[n] == session;
    FILE *file = !status && pretended ? fopen(*out, "r") : 0;
    if (!file) return status;
    static char text[1 << 22];
    size_t length = fread(text, 1, sizeof text - 1, file);
    text[length] = 0;
    fclose(file);
    file = fopen(*out, "w");
    const char *cpu = "CPUExecutionProvider", *at = text, *next;
    while (file && (next = strstr(at, cpu))) {
        fwrite(at, 1, next - at, file);
        fputs("TensorrtExecutionProvider", file);
        at = next + strlen(cpu);
    }
    if (file) { fputs(at, file); fclose(file); }
    return status;
}

static void *run(void *session, void *options, void *in_names, void *in, size_t ins, void *out_names, size_t outs, void *out) {
    void *(*status)(int, const char *) = (void *(*)(int, const char *))table[CREATE_STATUS];
    if (says("run-error")) return status(1, "CUDNN failure 4: the library says no");
    hang("run-wait", CONTROL ".runs");
    if (says("run-lost")) return status(1, "CUDA failure 700: an illegal memory access was encountered");
    const void *const *original = real->api(17);
    void *(*call)(void *, void *, void *, void *, size_t, void *, size_t, void *) = (void *)original[RUN];
    return call(session, options, in_names, in, ins, out_names, outs, out);
}

static const void *api(unsigned level) {
    const void *original = real->api(level);
    if (!original) return 0;
    memcpy(table, original, sizeof table);
    table[CREATE_SESSION] = create_session;
    table[RUN] = run;
    table[END_PROFILING] = end_profiling;
    table[TRT_APPEND] = append;
    table[TRT_CREATE] = table[CUDA_CREATE] = create_options;
    table[TRT_UPDATE] = update;
    table[TRT_RELEASE] = table[CUDA_RELEASE] = release_options;
    table[CUDA_APPEND] = append_cuda;
    table[CUDA_UPDATE] = update_cuda;
    return table;
}

static const char *version(void) { return real->version(); }
static const struct base base = { api, version };

const void *OrtGetApiBase(void) {
    void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    const void *(*get)(void) = library ? (const void *(*)(void))dlsym(library, "OrtGetApiBase") : 0;
    if (!get) return 0;
    real = get();
    return &base;
}
