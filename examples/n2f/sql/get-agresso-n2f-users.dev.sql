-- Users wanted in N2F, development: a hand-kept list.
-- This is a part of them: a profile that reads it says `complete: false`, and deletes nothing.
-- The view is looked for in the connection's own database and schema.
SELECT
    [AdresseEmail],
    [Prenom],
    [Nom],
    [Entreprise],
    [Fonction],
    [Role],
    [Profil],
    [Manager],
    [Compte_Auxiliaire_Agresso],
    [Moyen_Paiement_Prof],
    [Compte_Auxiliaire2],
    [Matricule],
    [Centre_Cout],
    [Creation_Vehicule],
    [Appro_Veh_Adm],
    [Deduction_Distance_TravDom],
    [Distance_TravDom],
    [Devise],
    [langue],
    [Structure],
    [Champs_Liaison_SSO],
    [Droit_Relever_Plafond],
    [Methode_SSO],
    [Update_Champs_Perso],
    [Nouveau_Email],
    [Action],
    [CompanyID],
    [LocationID],
    [DivisionID]
FROM [v_N2F_User]
WHERE LOWER([AdresseEmail]) IN (
    'same.user@example.org',
    'new.user@example.org',
    'new.boss@example.org',
    'chg.user@example.org',
    'anna.adler@example.test',
    'bram.boon@example.test',
--  'clara.claes@example.test',
    'dirk.daems@example.test'
)
ORDER BY [AdresseEmail];
