# The hook of the mutated snaps: it ends well, and does nothing else.
	.intel_syntax noprefix
	.globl _start
	.text
_start:
	xor edi, edi
	mov eax, 231		# exit_group(2)
	syscall
