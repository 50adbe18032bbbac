/* What runs before main: the vector table, the coprocessors, memory. Input and output are the debugger's, by semihosting (rdimon). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern uint32_t stack_top[], data_start[], data_end[], bss_start[], bss_end[];
extern const uint32_t data_load[];
extern void initialise_monitor_handles(void);
extern int main(int argc, char **argv);

void reset(void);

static int semihosting(int call, const void *argument) {
    register int r0 __asm__("r0") = call;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void fault(void) {
    semihosting(0x04, "a fault\n");      /* SYS_WRITE0 */
    semihosting(0x18, (void *)0x20023); /* SYS_EXIT: a run-time error */
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, fault},
};

void reset(void) {
    static char line[1024];
    static char *arguments[16];
    const struct {
        char *to;
        int size;
    } block = {line, sizeof line};
    int count = 0;

#if defined(__ARM_FP)
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: floats, and Helium's vectors */
#endif
#if defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xe000ed14 |= 1u << 19; /* CCR: loops without overhead */
#endif
    __asm__ volatile("dsb\n isb" ::: "memory");
    memcpy(data_start, data_load, (size_t)((char *)data_end - (char *)data_start));
    memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
    initialise_monitor_handles();
    if (semihosting(0x15, &block) == 0) { /* SYS_GET_CMDLINE */
        char *word = strtok(line, " ");
        for (; word && count < 15; word = strtok(NULL, " "))
            arguments[count++] = word;
    }
    exit(main(count, arguments));
}
