# The level of this processor, as a number in eax: 0 plain, 1 sse4.1, 2 avx2, 3 avx2-vnni, 4 avx512-vnni. For every system: no
# argument, no memory but the stack, and rbx, which cpuid writes, is preserved.
# Bits: Intel, Software Developer's Manual, volume 2, CPUID; volume 1, chapter 13, XCR0.
.intel_syntax noprefix
    push rbx
    xor r11d, r11d
    xor eax, eax
    cpuid
    mov r8d, eax                # the last leaf
    mov eax, 1
    cpuid
    mov r9d, ecx
    and ecx, 0x80201            # SSE3, SSSE3, SSE4.1
    cmp ecx, 0x80201
    jne done
    inc r11d
    cmp r8d, 7
    jb done
    and r9d, 0x38901000         # FMA, SSE4.2, POPCNT, OSXSAVE, AVX, F16C
    cmp r9d, 0x38901000
    jne done
    xor ecx, ecx
    xgetbv
    mov r10d, eax               # the registers that the system saves
    and eax, 0x6                # of 128 and of 256 bits
    cmp eax, 0x6
    jne done
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb done
    mov eax, 0x80000001
    cpuid
    bt ecx, 5                   # LZCNT
    jnc done
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov r8d, eax                # the last part of this leaf
    mov eax, ebx
    and eax, 0x128              # BMI1, AVX2, BMI2
    cmp eax, 0x128
    jne done
    inc r11d
    and r10d, 0xe6              # and the registers of AVX-512
    cmp r10d, 0xe6
    jne narrow
    and ebx, 0xc0030000         # AVX-512 F, DQ, BW, VL
    cmp ebx, 0xc0030000
    jne narrow
    bt ecx, 11                  # AVX-512 VNNI
    jnc narrow
    mov r11d, 4
    jmp done
narrow:
    test r8d, r8d
    jz done
    mov eax, 7
    mov ecx, 1
    cpuid
    bt eax, 4                   # AVX-VNNI
    adc r11d, 0
done:
    mov eax, r11d
    pop rbx
    ret
