"""What a batch can hold: one file a modality, each an `sslax.method.Input`, named by methods and configs and nowhere else."""
