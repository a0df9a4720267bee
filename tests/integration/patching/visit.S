/*
 * void visit(struct visit *): jump to its target with all registers, flags and the red zone as it says, and note what they are
 * when the code there has jumped to visit_back. Only %rsp stays what it is.
 */
#define IN_FLAGS 128
#define IN_TARGET 136
#define IN_STACK 144 /* all ones: %rcx is relative to %rsp */
#define IN_XMM 160
#define IN_RED 416
#define OUT 544

    .text
    .globl visit, visit_back
visit:
    .irp register, rbx, rbp, r12, r13, r14, r15
    push %\register
    .endr
    sub $24, %rsp               /* (%rsp): the visit; 8(%rsp): scratch; 16(%rsp): where to */
    mov %rdi, (%rsp)
    mov IN_TARGET(%rdi), %rax
    mov %rax, 16(%rsp)
    mov IN_STACK(%rdi), %rax
    and %rsp, %rax
    sub %rax, 8(%rdi)
    pushq IN_FLAGS(%rdi)
    popfq
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu IN_XMM + 16 * \number(%rdi), %xmm\number
    mov IN_RED + 8 * \number(%rdi), %rax
    mov %rax, -8 * (\number + 1)(%rsp)
    .endr
    mov 0(%rdi), %rax
    mov 8(%rdi), %rcx
    mov 16(%rdi), %rdx
    mov 24(%rdi), %rbx
    mov 40(%rdi), %rbp
    mov 48(%rdi), %rsi
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    mov 8 * \number(%rdi), %r\number
    .endr
    mov 56(%rdi), %rdi
    jmp *16(%rsp)

visit_back:
    mov %rax, 8(%rsp)
    mov (%rsp), %rax
    mov %rcx, OUT + 8(%rax)
    mov %rdx, OUT + 16(%rax)
    mov %rbx, OUT + 24(%rax)
    mov %rbp, OUT + 40(%rax)
    mov %rsi, OUT + 48(%rax)
    mov %rdi, OUT + 56(%rax)
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    mov %r\number, OUT + 8 * \number(%rax)
    .endr
    mov 8(%rsp), %rcx
    mov %rcx, OUT(%rax)
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu %xmm\number, OUT + IN_XMM + 16 * \number(%rax)
    mov -8 * (\number + 1)(%rsp), %rcx
    mov %rcx, OUT + IN_RED + 8 * \number(%rax)
    .endr
    pushfq
    popq OUT + IN_FLAGS(%rax)
    add $24, %rsp
    .irp register, r15, r14, r13, r12, rbp, rbx
    pop %\register
    .endr
    ret

    .section .note.GNU-stack, "", @progbits
