/* Tiles that several threads, processes and signal handlers share: every answer on the recording has the integers of plain C.
 *
 * Prints the kernels that answer, those that do where the system refuses the tiles, and how often the system took the processor
 * away; stops with 1 and a line at the first difference.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "eser_model.h"
#include "eser_parts.h"

extern const int16_t clip[];
extern const uint32_t clip_samples;

typedef struct {
    uint64_t state[ESER_STATE_BYTES / sizeof(uint64_t)];
    const eser_kernels *kernels;
    eser_result result;
} answer;

static answer plain, first, second;

static void *compute(void *given) {
    answer *a = given;
    eser *stream;
    memset(&a->result, 0, sizeof a->result);
    if (eser_init(&stream, &eser_default_model, a->state, sizeof a->state) != ESER_OK)
        exit(2);
    if (a->kernels != NULL)
        stream->kernels = a->kernels;
    a->kernels = stream->kernels;
    eser_feed_i16(stream, clip, clip_samples);
    if (eser_finish(stream, &a->result) != ESER_OK)
        exit(2);
    return NULL;
}

static void require(const answer *a, const char *where) {
    if (memcmp(a->result.logits_q16, plain.result.logits_q16, sizeof plain.result.logits_q16) != 0 ||
        memcmp(a->result.embedding_q16, plain.result.embedding_q16, sizeof plain.result.embedding_q16) != 0) {
        printf("%s differs from plain C %s\n", a->kernels->name, where);
        fflush(stdout);
        _exit(1);
    }
}

static void require_success(pid_t child) {
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        exit(1);
}

static void *compute_often(void *given) {
    for (int i = 0; i < 5; i++) {
        compute(given);
        require(given, "beside another thread");
    }
    return NULL;
}

static volatile sig_atomic_t signals;

static void count(int number) {
    (void)number;
    signals++;
}

/* A process whose stack for signals has no room for tiles is not allowed them; it may not get one such once it is. */
static void without_permission(void) {
    static char small[2048];
    const stack_t stack = {.ss_sp = small, .ss_size = sizeof small};
    if (sigaltstack(&stack, NULL) != 0)
        exit(2);
    plain.kernels = eser_kernels_at(0);
    compute(&plain);
    compute(&first);
    require(&first, "without the permission");
    printf("refused %s\n", first.kernels->name);
}

int main(void) {
    pid_t child = fork(); /* before anything asks for the permission */
    if (child == 0) {
        without_permission();
        return 0;
    }
    require_success(child);
    plain.kernels = eser_kernels_at(0);
    compute(&plain);
    compute(&first);
    require(&first, "at first");
    printf("default %s\n", first.kernels->name);
    fflush(stdout);

    child = fork(); /* both go on with the permission, and at once */
    compute(&first);
    require(&first, "after fork");
    if (child == 0)
        return 0;
    require_success(child);

    const struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    pthread_t threads[2];
    signal(SIGALRM, count);
    setitimer(ITIMER_REAL, &often, NULL);
    if (pthread_create(&threads[0], NULL, compute_often, &first) != 0 ||
        pthread_create(&threads[1], NULL, compute_often, &second) != 0)
        return 2;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    setitimer(ITIMER_REAL, &never, NULL);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("signals %d switches %ld\n", (int)signals, usage.ru_nivcsw);
    return 0;
}
