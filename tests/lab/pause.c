/* SPDX-License-Identifier: GPL-2.0
 *
 * The main process of a container whose own program is not rebuilt here: it is there, and does nothing.
 */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
