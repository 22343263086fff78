"""What an accelerator does with the product's own programs: `python loadtests/gpu`."""
