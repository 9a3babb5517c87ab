"""From what a hospital's archive exports to a cohort that can be trained on.

    walk      folders and zip files -> entries, one a file
    admit     entry -> de-identified copy, or a reason for quarantine
    build     a patient's copies -> scans of one study on one grid (`scans`, `outlines`, `bring`, `space`)
    journal   what was read and built already, so that a second run reads what is new
    manifest  what the cohort holds and how it came about
    run       these, one after the other, over processes

A cohort's folder, readable by its owner alone:

    COHORT/
      <patient>/<modality>.nii     scans and label maps, as `imaging.sources.nifti` reads them
      labels.csv, <table>.csv      tables; their first column is the patient
      manifest.json                what is here, with every step and a hash of each file
      quality.html                 what a person should look at (`imaging.quality`)
      journal.sqlite               which files were read, and what became of each
      .clean/<patient>/...         de-identified copies of what was admitted

A patient's name here is a keyed stand-in (`imaging.pseudonyms`): equal for all sources of a hospital, and
for nobody else. Files are known by a keyed digest of their paths, for paths name patients.
"""
