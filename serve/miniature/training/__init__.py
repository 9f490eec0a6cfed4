"""How the miniature is made: procedural scenes, a tokenizer, training stages, and a measurement.

drawing, scenes   pictures and captions
tokenizer         its vocabulary
architecture      new models from the shipped configurations
dataset           training data on disk
fitting           the training loop; `train_latents`, `train_unet`, `train_vae` use it
consistency       few-step UNets of any family; a command of its own
export            trained models to diffusers folders
__main__          `python -m serve.miniature.training`
measure, judges   what the shipped weights can do
contact_sheet     the pictures of the model card
"""
