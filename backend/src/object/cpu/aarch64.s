// The level of this processor, as a number in w0: 0 neon, 1 dotprod. For Linux and Android, without their libraries: the kernel's list of a
// process's properties is asked for (since Linux 6.4), or read from /proc/self/auxv, or where programs may not do that, as applications on
// Android, features are looked for in /proc/cpuinfo. Where nothing can be found out, the answer is 0.
// Numbers: Linux, include/uapi/asm-generic/unistd.h, linux/prctl.h, linux/auxvec.h, arch/arm64/include/uapi/asm/hwcap.h.
    sub sp, sp, #1024
    mov x13, x30
    mov x9, #0
    movz x0, #0x5856            // PR_GET_AUXV
    movk x0, #0x4155, lsl #16
    mov x1, sp
    mov x2, #1024
    mov x3, #0
    mov x4, #0
    mov x8, #167                // prctl
    svc #0
    cmp x0, #16
    b.ge list
    adr x1, auxv
    bl read
    cmp x0, #16
    b.ge list
    adr x1, cpuinfo
    bl read
    cmp x0, #8
    b.lt done
    mov x12, sp
    add x11, x12, x0
    sub x11, x11, #8            // the last place for eight letters
    ldr x14, feature
letter:
    ldr x15, [x12], #1
    cmp x15, x14
    cset x9, eq
    b.eq done
    cmp x12, x11
    b.ls letter
    b done
list:
    mov x11, #1024              // a longer list is cut off
    cmp x0, x11
    csel x11, x0, x11, lo
    mov x12, sp
    add x11, x12, x11
next:
    add x14, x12, #16
    cmp x14, x11
    b.hi done
    ldp x14, x15, [x12], #16
    cmp x14, #16                // AT_HWCAP
    b.ne next
    ubfx x9, x15, #20, #1       // HWCAP_ASIMDDP
done:
    mov x0, x9
    add sp, sp, #1024
    ret x13
// The first 1024 bytes of the file at x1, to the stack; their number in x0, or an error.
read:
    mov x0, #-100               // AT_FDCWD
    mov x2, #0x80000            // O_RDONLY, O_CLOEXEC
    mov x3, #0
    mov x8, #56                 // openat
    svc #0
    tbnz x0, #63, failed
    mov x10, x0
    mov x1, sp
    mov x2, #1024
    mov x8, #63                 // read
    svc #0
    mov x11, x0
    mov x0, x10
    mov x8, #57                 // close
    svc #0
    mov x0, x11
failed:
    ret
    .balign 8
feature:
    .ascii " asimddp"
auxv:
    .asciz "/proc/self/auxv"
cpuinfo:
    .asciz "/proc/cpuinfo"
