"""From a hospital's folder to what training reads: labels, photos, faces, features, cohorts."""
