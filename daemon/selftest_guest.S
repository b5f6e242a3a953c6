/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest of a selftest: a boot sector that needs no kernel. It counts in its RAM, says each
 * number on its serial port, and writes the sector that it is, with the number in it, to its disk.
 * The firmware's drivers do the I/O, so the disk may be any that SeaBIOS boots from.
 *
 * Addresses are those of a boot sector, 0x7c00 and up; nothing is left to the linker.
 */
#define AT(label) ((label) - qhup_selftest_guest + 0x7c00)

        .section .rodata
        .globl  qhup_selftest_guest, qhup_selftest_guest_number
        .balign 16
        .code16
qhup_selftest_guest:
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        cld
next:   movw    $AT(last), %di          /* add one to the decimal number */
carry:  incb    (%di)
        cmpb    $0x39, (%di)            /* '9' */
        jbe     show
        movb    $0x30, (%di)
        decw    %di
        jmp     carry
show:   movw    $AT(line), %si
        call    print
        movw    $0x0301, %ax            /* write one sector: this one, to the second of the disk */
        movw    $0x7c00, %bx
        movw    $2, %cx
        movw    $0x80, %dx
        int     $0x13
        jc      broken
        xorw    %cx, %cx                /* wait 10,000 us */
        movw    $10000, %dx
        movb    $0x86, %ah
        int     $0x15
        jmp     next
broken: movw    $AT(lost), %si
        call    print
stop:   hlt
        jmp     stop

print:  lodsb
        testb   %al, %al
        jz      done
        movb    %al, %bl
wait:   movw    $0x3fd, %dx             /* until the port takes a byte */
        inb     %dx, %al
        testb   $0x20, %al
        jz      wait
        movw    $0x3f8, %dx
        movb    %bl, %al
        outb    %al, %dx
        jmp     print
done:   ret

line:   .ascii  "count "
qhup_selftest_guest_number:
        .ascii  "000000000"
last:   .asciz  "0\r\n"
lost:   .asciz  "disk error\r\n"
        .org    qhup_selftest_guest + 510
        .word   0xaa55
        .section .note.GNU-stack, "", %progbits
