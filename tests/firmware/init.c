/* The first program of an emulated machine: runs the commands of /commands, a line each, and restarts it.
 *
 * A line tells the exit status of each and the processor's clocks over its run, which in Bochs are instructions.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <x86intrin.h>

#define WORDS 8

static int run(char *line) {
    char *words[WORDS + 1] = {NULL};
    int n = 0, status = -1;
    for (char *word = strtok(line, " \n"); word != NULL && n < WORDS; word = strtok(NULL, " \n"))
        words[n++] = word;
    const pid_t child = fork();
    if (child == 0) {
        execv(words[0], words);
        _exit(127);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void) {
    char line[256];
    mkdir("/proc", 0555);
    mount("proc", "/proc", "proc", 0, NULL);
    FILE *commands = fopen("/commands", "r");
    while (commands != NULL && fgets(line, sizeof line, commands) != NULL) {
        printf("$ %s", line);
        fflush(stdout);
        const unsigned long long before = __rdtsc();
        const int status = run(line);
        printf("status %d clocks %llu\n", status, __rdtsc() - before);
        fflush(stdout);
    }
    tcdrain(STDOUT_FILENO);
    reboot(RB_AUTOBOOT);
    return 1;
}
