# The machine that virt runs: one boot sector that counts.
#
# Four to five times a second it adds one to a counter, writes the counter to
# the disk and then to the serial line, in this order, so that what was seen
# on the line is always on the disk. It goes on from the disk after a boot.
# The power button (QMP: system_powerdown) makes it write "halt" and switch
# the machine off.
#
# Disk: sector 0 is this program, sector 1 is the state:
#	0	8 bytes	"TENURE01"
#	8	4 bytes	the counter, little endian
#	12	4 bytes	1 after a clean switching off, 0 while it runs
#
# Serial line: "boot N", "tick N+1", "tick N+2", ..., "halt M".

	.arch	i386
	.code16
	.globl	_start

	.set	STATE, 0x8000		# the state sector in memory
	.set	COUNTER, STATE + 8
	.set	CLEAN, STATE + 12
	.set	TICKS, 0x46c		# BIOS data: timer ticks since boot, 18.2 Hz
	.set	COM1, 0x3f8
	.set	PM, 0x600		# where SeaBIOS puts the PIIX4's power management
	.set	PM_ENABLE, PM + 2
	.set	PM_CONTROL, PM + 4
	.set	POWER_BUTTON, 0x100	# bit of the status and enable registers
	.set	SOFT_OFF, 0x2000	# sleep type 0 (S5 on PIIX4) and go

	.text
_start:
	ljmp	$0, $start
start:
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	movb	%dl, drive
	cld

	inb	$0xa1, %al		# mask IRQ 9: the button is asked for, not waited for
	orb	$0x02, %al
	outb	%al, $0xa1
	movw	$PM_ENABLE, %dx
	movw	$POWER_BUTTON, %ax
	outw	%ax, %dx

	movw	$0x0201, %ax		# read the state
	call	disk
	movw	$magic, %si		# a new disk has none: begin at 0
	movw	$STATE, %di
	movw	$8, %cx
	repe	cmpsb
	je	known
	movw	$magic, %si
	movw	$STATE, %di
	movw	$8, %cx
	rep	movsb
	xorl	%eax, %eax
	movl	%eax, COUNTER
known:
	movl	$0, CLEAN
	movw	$boot, %si
	call	line

count:
	incl	COUNTER
	movw	$0x0301, %ax		# write the state
	call	disk
	movw	$tick, %si
	call	line

	movw	TICKS, %bx		# wait four ticks, watching the button
wait:
	movw	$PM, %dx
	inw	%dx, %ax
	testw	$POWER_BUTTON, %ax
	jnz	halt
	sti
	hlt
	movw	TICKS, %ax
	subw	%bx, %ax
	cmpw	$4, %ax
	jb	wait
	jmp	count

halt:
	movl	$1, CLEAN
	movw	$0x0301, %ax
	call	disk
	movw	$bye, %si
	call	line
	movw	$PM_CONTROL, %dx
	movw	$SOFT_OFF, %ax
	outw	%ax, %dx
dead:
	hlt
	jmp	dead

# disk does what ax says (0x0201 read, 0x0301 write) to the state sector. A
# failing disk stops the machine with "disk" on its line.
disk:
	movw	$STATE, %bx
	movw	$0x0002, %cx		# cylinder 0, sector 2 (they count from 1)
	xorb	%dh, %dh
	movb	drive, %dl
	int	$0x13
	jc	broken
	ret
broken:
	movw	$failed, %si
	call	line
	jmp	dead

# line writes the word at si, a space, the counter and a newline.
line:
	lodsb
	testb	%al, %al
	jz	number
	call	putc
	jmp	line
number:
	movl	COUNTER, %eax
	movl	$10, %ebx
	xorw	%cx, %cx
digit:
	xorl	%edx, %edx
	divl	%ebx
	pushw	%dx
	incw	%cx
	testl	%eax, %eax
	jnz	digit
digits:
	popw	%ax
	addb	$'0', %al
	call	putc
	loop	digits
	movb	$'\n', %al

# putc writes al to the serial line; it keeps all registers but ax and dx.
putc:
	movb	%al, %ah
	movw	$COM1 + 5, %dx
busy:
	inb	%dx, %al
	testb	$0x20, %al		# the transmitter is empty
	jz	busy
	movb	%ah, %al
	movw	$COM1, %dx
	outb	%al, %dx
	ret

magic:	.ascii	"TENURE01"
boot:	.asciz	"boot "
tick:	.asciz	"tick "
bye:	.asciz	"halt "
failed:	.asciz	"disk "
drive:	.byte	0

	.org	510
	.word	0xaa55
