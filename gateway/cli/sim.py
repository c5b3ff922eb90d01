"""`headwater sim`: simulated devices, which know nothing of the gateway."""

from __future__ import annotations

import click


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sim(arguments: tuple[str, ...]) -> int:
    """Simulated devices: `headwater sim thermometer`, `headwater sim replay FILE` (each has --help)."""
    from firmware_sim.cli import main

    return main(arguments, program="headwater sim")
