/* Where a Cortex-M or a RISC-V under qemu starts, and what it asks the emulator by semihosting. */
extern uint32_t stack_top[];
void reset_handler(void);

#ifdef __riscv
static long semihost(long operation, const void *argument)
{
    register long a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;
    __asm__ volatile(".option push\n.option norvc\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
    return a0;
}

__asm__(".section .vectors,\"ax\"\n.globl _start\n_start:\nla sp, stack_top\nj reset_handler\n.text\n");
#else
__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {stack_top, reset_handler};

static long semihost(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
#endif
