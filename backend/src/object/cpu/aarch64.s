// The level of this processor, as a number in w0: 0 neon, 1 dotprod. For Linux and Android, without their libraries: the kernel's list of a
// process's properties is read from /proc/self/auxv; where it cannot be, the answer is 0.
// Numbers: Linux, include/uapi/asm-generic/unistd.h, linux/auxvec.h, arch/arm64/include/uapi/asm/hwcap.h.
    sub sp, sp, #1024
    mov x9, #0
    mov x0, #-100               // AT_FDCWD
    adr x1, path
    mov x2, #0x80000            // O_RDONLY, O_CLOEXEC
    mov x3, #0
    mov x8, #56                 // openat
    svc #0
    tbnz x0, #63, done
    mov x10, x0
    mov x1, sp
    mov x2, #1024
    mov x8, #63                 // read
    svc #0
    mov x11, x0
    mov x0, x10
    mov x8, #57                 // close
    svc #0
    cmp x11, #16
    b.lt done
    mov x12, sp
    add x11, x12, x11
next:
    add x13, x12, #16
    cmp x13, x11
    b.hi done
    ldp x14, x15, [x12]
    mov x12, x13
    cmp x14, #16                // AT_HWCAP
    b.ne next
    ubfx x9, x15, #20, #1       // HWCAP_ASIMDDP
done:
    mov x0, x9
    add sp, sp, #1024
    ret
path:
    .asciz "/proc/self/auxv"
