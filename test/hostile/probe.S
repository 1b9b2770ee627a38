# The program of the mutated snaps, as small as a program can be. It creates
# every file that its arguments name, or fails to, and then ends; without
# arguments it waits for a signal.
	.intel_syntax noprefix
	.globl _start
	.text
_start:
	pop rbx			# argc
	pop rax			# argv[0]
	dec ebx
	jz wait
next:
	pop rdi
	mov esi, 0101		# O_WRONLY|O_CREAT
	mov edx, 0666
	mov eax, 2		# open(2)
	syscall
	dec ebx
	jnz next
	xor edi, edi
	mov eax, 231		# exit_group(2)
	syscall
wait:
	mov eax, 34		# pause(2)
	syscall
	jmp wait
