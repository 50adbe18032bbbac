/* Suggests the next word after each word of a text, and says what that takes.
 *
 * Time is the processor's clock by SysTick: cycles on a board. In QEMU with `-icount shift=0` an instruction takes a nanosecond, and MHZ,
 * the clock of the emulated board, turns ticks into instructions. */
#include "keyboard.h"
#include <stdio.h>
#include <string.h>

enum { SUGGESTIONS = 3, PAINTED = 16 * 1024 };

static _Alignas(KEYBOARD_STATE_ALIGN) unsigned char state[KEYBOARD_STATE_SIZE];
static _Alignas(KEYBOARD_STATE_ALIGN) unsigned char ahead[KEYBOARD_STATE_SIZE];

static volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010;

static uint32_t now(void) {
    return 0xffffff - systick[2];
}

/* The time since then; SysTick has 24 bits. */
static unsigned long since(uint32_t then) {
    const uint32_t ticks = (now() - then) & 0xffffff;
#ifdef MHZ
    return ticks * 1000ul / MHZ;
#else
    return ticks;
#endif
}

/* Marks memory below the stack, and finds how much of it is still marked. */
static __attribute__((noinline)) size_t stack(int paints) {
    extern char stack_top[];
    static char *from;
    volatile char *p;
    if (paints) {
        from = (char *)__builtin_frame_address(0) - 64;
        for (p = from - PAINTED; p < from; p++)
            *p = 0x5a;
        return 0;
    }
    for (p = from - PAINTED; *p == 0x5a; p++)
        ;
    return (size_t)(from - p);
}

int main(int argc, char **argv) {
    uint32_t last, ids[SUGGESTIONS];
    float log_probabilities[SUGGESTIONS];
    unsigned long advancing = 0, suggesting = 0;
    int status = keyboard_reset(state, sizeof state, KEYBOARD_ABI_VERSION), n, i;

    systick[1] = 0xffffff;
    systick[2] = 0;
    systick[0] = 5;
    status |= keyboard_token("<eos>", 5, &last);
    stack(1);
    for (n = 1; n < argc && !status; n++) {
        uint32_t then = now();
        status = keyboard_advance(state, last);
        advancing += since(then);
        if (keyboard_token(argv[n], strlen(argv[n]), &last) == KEYBOARD_ERROR_WORD)
            printf("(%s is read as <unk>) ", argv[n]);
        memcpy(ahead, state, sizeof state);
        then = now();
        status |= keyboard_top_k(ahead, last, SUGGESTIONS, ids, log_probabilities);
        suggesting += since(then);
        printf("%s:", argv[n]);
        for (i = 0; i < SUGGESTIONS && !status; i++)
            printf(" %s", keyboard_word(ids[i]));
        printf("\n");
    }
    if (status || n == 1) {
        printf("status %d, see enum keyboard_status in keyboard.h; or no words were given\n", status);
        return 1;
    }
    printf("advance: %lu, top_k: %lu per token\n", advancing / (n - 1), suggesting / (n - 1));
    printf("state: %u bytes of RAM, stack: %u\n", KEYBOARD_STATE_SIZE, (unsigned)stack(0));
    return 0;
}
